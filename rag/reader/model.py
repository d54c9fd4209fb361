"""The span reader: a small network over the frozen encoder's states that points at the answer in a passage.

What `passage` makes does not depend on the question and is computed once; a question's own pass
over it is two layers of 128 numbers a token. Aligned questions and word matches as in DrQA (Chen et al. 2017, arXiv
1704.00051), gated convolutions as in GLDR (Wu et al. 2017, arXiv 1711.04352), a null answer in the same softmax as in
BERT's SQuAD 2.0 head, judged from the passage's side and from the question's (`doubt.py`).

Shapes: B pairs of question and passage, T passage tokens, M question tokens, H encoder width, D reader width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .doubt import Doubt
from .matching import MATCHES, Nearness, Question, match
from .traits import LOOKS, TRAITS


@dataclass(frozen=True)
class ReaderConfig:
    """Sizes of a reader."""

    hidden: int
    vocabulary: int
    width: int = 128
    layers: int = 2
    dropout: float = 0.2


@dataclass(frozen=True)
class Passage:
    """Padded passages as the reader takes them.

    Attributes:
        features: (B, T, D), see `SpanReader.passage`.
        hidden: (B, T, H) unit vectors of the states it was made of.
        ids: (B, T) int64 token ids.
        mask: (B, T) bool, true for tokens.
    """

    features: Tensor
    hidden: Tensor
    ids: Tensor
    mask: Tensor

    def of(self, rows: Tensor) -> Passage:
        """The passages of (N,) rows, one for each."""
        return Passage(self.features[rows], self.hidden[rows], self.ids[rows], self.mask[rows])


class SpanReader(nn.Module):
    """Scores each token of a passage as first and as last of the answer, and that there is none."""

    folded: Tensor
    traits: Tensor

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        width = config.width
        self.config = config
        # See `traits.py`; set from the encoder's vocabulary before training, and saved with the weights.
        self.register_buffer("folded", torch.arange(config.vocabulary, dtype=torch.int32))
        self.register_buffer("traits", torch.zeros(config.vocabulary, TRAITS, dtype=torch.bool))
        self.norm = nn.LayerNorm(config.hidden)
        self.project = nn.Linear(config.hidden, width)
        self.looks = nn.Linear(LOOKS, width, bias=False)
        self.local = LocalMix(width, config.dropout)
        self.question = BiLstm(width)
        self.match_weight = nn.Linear(width, 1)
        self.pool = nn.Linear(width, 1)
        self.align_passage = nn.Linear(width, width)
        self.align_question = nn.Linear(width, width)
        self.fuse = nn.Linear(3 * width + MATCHES, width)
        self.asks = nn.Linear(width, width)
        self.mixes = nn.ModuleList(LocalMix(width, config.dropout) for _ in range(config.layers))
        self.recurrent = nn.ModuleList(BiLstm(width) for _ in range(config.layers))
        self.read = nn.Linear(2 * width, width)
        self.ends = nn.Linear(width, 2)
        self.bilinear = nn.Linear(width, 2 * width)
        self.nothing = nn.Linear(2 * width, 2)
        self.doubt = Doubt(width)
        self.dropout = EvenDropout(config.dropout)

    def passage(self, hidden: Tensor, ids: Tensor, mask: Tensor) -> Passage:
        """(B, T, H) cached states, (B, T) int64 ids and (B, T) bool to what any question needs of them."""
        features = self.local(self._input(hidden, ids), mask)
        return Passage(features, F.normalize(hidden, dim=-1), ids, mask)

    def forward(self, passage: Passage, hidden: Tensor, asked: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the first and of the last token.

        Args:
            passage: one for each question.
            hidden: (B, M, H) states of the questions.
            asked: (B, M) int64 token ids.
            known: (B, M) bool, true for tokens.

        Returns:
            Two (B, T + 1) float32; the last place is the null answer. Padding is -inf.
        """
        return self.lit(passage, hidden, asked, known)[1:]

    def lit(self, passage: Passage, hidden: Tensor, asked: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What it makes of a passage's tokens in the light of a question, (B, T, D), before the logits of `forward`."""
        q = self.question(self._input(hidden, asked), known)
        weight = torch.softmax(self.pool(q).float().masked_fill(~known[..., None], -torch.inf), 1)
        asks = (weight * q).sum(1).to(q.dtype)
        first, near = self._fused(passage, q, asks, hidden, asked, known)
        x = first
        for mix, recurrent in zip(self.mixes, self.recurrent, strict=True):
            x = mix(x, passage.mask)
            x = x + recurrent(self.dropout(x), passage.mask)
        x = self.dropout(F.gelu(self.read(torch.cat([first, x], -1))))
        return x, *self._ends(x, q, asks, near, passage.mask)

    def _input(self, hidden: Tensor, ids: Tensor) -> Tensor:
        return self.dropout(self.project(self.norm(hidden)) + self.looks(self.traits[ids, :LOOKS].float()))

    def _fused(
        self, passage: Passage, q: Tensor, asks: Tensor, hidden: Tensor, asked: Tensor, known: Tensor
    ) -> tuple[Tensor, Nearness]:
        """(B, T, D): a passage's token, what of the question it is aligned with, and how it matches."""
        own = passage.features
        scores = self.align_passage(own) @ self.align_question(q).transpose(1, 2) * q.shape[-1] ** -0.5
        aligned = torch.softmax(scores.float().masked_fill(~known[:, None], -torch.inf), -1).to(q.dtype) @ q
        importance = torch.sigmoid(self.match_weight(q).float())[..., 0] * known
        question = Question(F.normalize(hidden, dim=-1), self.folded[asked], asked, known, importance)
        ids = passage.ids
        matches, near = match(question, passage.hidden, self.folded[ids], ids, passage.mask, self.traits[ids])
        fused = self.fuse(torch.cat([own, aligned, own * aligned, matches.to(own.dtype)], -1))
        return F.gelu(fused + self.asks(asks)[:, None]), near

    def _ends(self, x: Tensor, q: Tensor, asks: Tensor, near: Nearness, mask: Tensor) -> tuple[Tensor, Tensor]:
        wanted = self.bilinear(asks).unflatten(-1, (2, -1))
        logits = self.ends(x) + x @ wanted.transpose(1, 2) * x.shape[-1] ** -0.5
        logits = logits.float().masked_fill(~mask[..., None], -torch.inf)
        best = torch.where(mask[..., None], x, x.new_full((), -1e4)).amax(1)
        null = self.nothing(torch.cat([best, asks], -1)).float() + self.doubt(q, x, logits[..., 0], near, mask)
        both = torch.cat([logits, null[:, None]], 1)
        return both[..., 0], both[..., 1]


class EvenDropout(nn.Module):
    """Drops the same features of all tokens of a text (Gal and Ghahramani 2016), 200 times fewer random numbers."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, D) to the same."""
        if not self.training or not self.share:
            return x
        return x * F.dropout(x.new_ones(x.shape[0], 1, x.shape[2]), self.share)


class LocalMix(nn.Module):
    """A token and its two neighbours through a gated linear unit; residual."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.neighbours = nn.Linear(3 * width, 2 * width)
        self.dropout = EvenDropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) and (B, T) bool to (B, T, D); padding has no part in it."""
        length = x.shape[1]
        y = F.pad(self.dropout(self.norm(x) * mask[..., None]), (0, 0, 1, 1))
        y = self.neighbours(torch.cat([y[:, :length], y[:, 1 : length + 1], y[:, 2:]], -1))
        return x + F.glu(y, -1)


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
