"""The span reader: a small network over the frozen encoder's states that points at the answer in a passage.

A passage's side up to `passage_features` does not depend on the question and is computed once; a question's own pass
over it is two layers of 128 numbers a token. Fed with aligned questions and word matches as DrQA (Chen et al. 2017,
arXiv 1704.00051), with a null answer in the same softmax as BERT's SQuAD 2.0 head.

Shapes: B pairs of question and passage, T passage tokens, M question tokens, H encoder width, D reader width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_WINDOWS = (9, 33)
_FEATURES = 4 + len(_WINDOWS)


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of a reader."""

    hidden: int
    vocabulary: int
    width: int = 128
    layers: int = 2
    dropout: float = 0.2


class SpanReader(nn.Module):
    """Scores each token of a passage as first and as last of the answer, and that there is none."""

    folded: Tensor

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        # Token ids with case and leading space folded, so that `The` matches ` the`.
        self.register_buffer("folded", torch.arange(config.vocabulary, dtype=torch.int32))
        self.norm = nn.LayerNorm(config.hidden)
        self.project = nn.Linear(config.hidden, width)
        self.local = LocalMix(width, config.dropout)
        self.question = BiLstm(width)
        self.match_weight = nn.Linear(width, 1)
        self.pool = nn.Linear(width, 1)
        self.align_passage = nn.Linear(width, width)
        self.align_question = nn.Linear(width, width)
        self.fuse = nn.Linear(3 * width + _FEATURES, width)
        self.mixes = nn.ModuleList(LocalMix(width, config.dropout) for _ in range(config.layers))
        self.recurrent = nn.ModuleList(BiLstm(width) for _ in range(config.layers))
        self.read = nn.Linear(2 * width, width)
        self.ends = nn.Linear(width, 2)
        self.bilinear = nn.Linear(width, 2 * width)
        self.nothing = nn.Linear(2 * width, 2)
        self.dropout = nn.Dropout(config.dropout)

    def passage_features(self, hidden: Tensor, mask: Tensor) -> Tensor:
        """(B, T, H) cached states and (B, T) bool to (B, T, D), whatever the question."""
        return self.local(self.dropout(self.project(self.norm(hidden))), mask)

    def forward(
        self, passage: Tensor, hidden: Tensor, ids: Tensor, mask: Tensor, question: Tensor, asked: Tensor, known: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Logits of the first and of the last token.

        Args:
            passage: (B, T, D) of `passage_features`.
            hidden: (B, T, H) the states it was made of.
            ids: (B, T) int64 token ids.
            mask: (B, T) bool, true for tokens.
            question: (B, M, H) states.
            asked: (B, M) int64 token ids.
            known: (B, M) bool, true for tokens.

        Returns:
            Two (B, T + 1) float32; the last place is the null answer. Padding is -inf.
        """
        q = self.question(self.dropout(self.project(self.norm(question))), known)
        features = self._matches(hidden, ids, mask, question, asked, known, q)
        scores = self.align_passage(passage) @ self.align_question(q).transpose(1, 2) * q.shape[-1] ** -0.5
        weights = torch.softmax(scores.float().masked_fill(~known[:, None], -torch.inf), -1).to(q.dtype)
        aligned = weights @ q
        x = F.gelu(self.fuse(torch.cat([passage, aligned, passage * aligned, features.to(passage.dtype)], -1)))
        first = x
        for mix, recurrent in zip(self.mixes, self.recurrent, strict=True):
            x = mix(x, mask)
            x = x + recurrent(self.dropout(x), mask)
        weight = torch.softmax(self.pool(q).float().masked_fill(~known[..., None], -torch.inf), 1)
        asks = (weight * q).sum(1).to(q.dtype)
        x = self.dropout(F.gelu(self.read(torch.cat([first, x], -1))))
        wanted = self.bilinear(asks).unflatten(-1, (2, -1))
        logits = self.ends(x) + x @ wanted.transpose(1, 2) * x.shape[-1] ** -0.5
        logits = logits.float().masked_fill(~mask[..., None], -torch.inf)
        best = torch.where(mask[..., None], x, x.new_full((), -1e4)).amax(1)
        null = self.nothing(torch.cat([best, asks], -1)).float()
        both = torch.cat([logits, null[:, None]], 1)
        return both[..., 0], both[..., 1]

    def _matches(
        self, hidden: Tensor, ids: Tensor, mask: Tensor, question: Tensor, asked: Tensor, known: Tensor, q: Tensor
    ) -> Tensor:
        """(B, T, features): does a token occur in the question, how much does that weigh, how near is the nearest."""
        weight = (torch.sigmoid(self.match_weight(q).float()) * known[..., None])[..., 0]
        same = (self.folded[ids][:, :, None] == self.folded[asked][:, None]) & known[:, None]
        exact = ((ids[:, :, None] == asked[:, None]) & known[:, None]).any(-1).float()
        weighted = (same * weight[:, None]).amax(-1)
        cosines = F.normalize(hidden.float(), dim=-1) @ F.normalize(question.float(), dim=-1).transpose(1, 2)
        cosines = cosines.masked_fill(~known[:, None], -1.0)
        nearest, where = cosines.max(-1)
        soft = nearest * weight.gather(1, where)
        around = [_smooth(weighted * mask, size) for size in _WINDOWS]
        return torch.stack([exact, weighted, nearest, soft, *around], -1)


class LocalMix(nn.Module):
    """A token and its two neighbours, then a feed-forward layer; both residual."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.neighbours = nn.Linear(3 * width, width)
        self.norm_wide = nn.LayerNorm(width)
        self.wide = nn.Linear(width, 2 * width)
        self.narrow = nn.Linear(2 * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) and (B, T) bool to (B, T, D); padding has no part in it."""
        length = x.shape[1]
        y = F.pad(self.norm(x) * mask[..., None], (0, 0, 1, 1))
        y = self.neighbours(torch.cat([y[:, :length], y[:, 1 : length + 1], y[:, 2:]], -1))
        x = x + self.dropout(F.gelu(y))
        return x + self.dropout(self.narrow(F.gelu(self.wide(self.norm_wide(x)))))


class BiLstm(nn.Module):
    """Both directions, each from its own end of the text: padding comes last in both and changes nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.forth = nn.LSTM(width, width // 2, batch_first=True)
        self.back = nn.LSTM(width, width // 2, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) and (B, T) bool to (B, T, D)."""
        lengths = mask.sum(1, keepdim=True)
        places = torch.arange(x.shape[1], device=x.device)[None]
        turned = torch.where(places < lengths, lengths - 1 - places, places)[..., None].expand_as(x)
        half = turned[..., : x.shape[-1] // 2]
        return torch.cat([self.forth(x)[0], self.back(x.gather(1, turned))[0].gather(1, half)], -1)


def _smooth(values: Tensor, size: int) -> Tensor:
    """Mean over a window of odd `size` around each place of (B, T)."""
    return F.avg_pool1d(values[:, None], size, stride=1, padding=size // 2)[:, 0]
