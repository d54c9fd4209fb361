"""The writer: a frozen decoder with cross-attention blocks whose next word is a word of the passages.

Blocks and cached states are XC-Cache's (Monteiro et al. 2024, arXiv 2404.15420). Words are copied as in pointer
networks (Vinyals et al. 2015, arXiv 1506.03134): a run begins at a token of any passage, and at each step goes on to
the next token or stops. The probability of an answer is that of all places where it stands, as in attention-sum
readers (Kadlec et al. 2016, arXiv 1603.01547), so one that several passages give gains from each.

The decoder reads the question in both directions, as the encoder that it is, and what is written from left to right.

Shapes: B questions, N tokens of a question's passages, S steps (words written, and the end), D decoder width,
C memory width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..reader.model import SpanReader
from ..xc.decoder import Memories, XcDecoder
from .lit import ODDS, Lit

NEVER = -1e4


class CopyHead(nn.Module):
    """Scores each token of the passages as the next word, and as the last one written.

    It begins as the reader: a run's odds against no answer are those of its first and of its last word, put together,
    whatever passage it is in. What the decoder knows is learned.
    """

    def __init__(self, width: int, memory: int, size: int = 128) -> None:
        super().__init__()
        self.key = nn.Linear(memory, size, bias=False)
        self.begin, self.go_on, self.stop = (nn.Linear(width, size) for _ in range(3))
        self.nothing = nn.Linear(width, 1)
        self.odds = nn.Parameter(torch.ones(ODDS))
        self.rank = nn.Parameter(torch.zeros(()))
        for layer in (self.begin, self.go_on, self.stop, self.nothing):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, states: Tensor, lit: Lit, key: Tensor, step: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Logits from states of the decoder, or of several that read the one memory.

        Args:
            states: (B, S, D), the first of them `step` words behind the question.
            lit: what is read.
            key: (B, N, size), `self.key` of its memory, once for all steps.
            step: see `states`.

        Returns:
            (B, S, N) of each token as the next word, (B, S, N) as the last word, (B,) that there is no answer, which
            only the state behind the question tells.
        """
        scale = key.shape[-1] ** -0.5
        first, last, ahead = (lit.odds * self.odds).unbind(-1)
        wanted, expected = self.go_on(states), ahead[:, None]
        if step == 0:
            wanted = torch.cat([self.begin(states[:, :1]), wanted[:, 1:]], 1)
            later = torch.arange(states.shape[1], device=key.device)[:, None] > 0
            expected = expected + torch.where(later, 0.0, (first + self.rank * lit.log_rank)[:, None])
        copied = (wanted @ key.transpose(1, 2)) * scale + expected
        stopped = (self.stop(states) @ key.transpose(1, 2)) * scale + last[:, None]
        return copied.float(), stopped.float(), self.nothing(states[:, 0])[:, 0].float()


class CopyWriter(nn.Module):
    """A decoder with blocks, the reader that lights its memory, and the head.

    Attributes:
        decoder: the frozen encoder's layers with blocks; its `context_width` is that of `Lit.memory`.
        reader: trained with the blocks, from one that points.
    """

    def __init__(self, decoder: XcDecoder, reader: SpanReader) -> None:
        super().__init__()
        self.decoder, self.reader = decoder, reader
        self.head = CopyHead(decoder.config.decoder_width, decoder.config.context_width)

    def train(self, mode: bool = True) -> CopyWriter:
        """Set the mode; the reader goes on without dropout, as it was when it was trained to the end."""
        super().train(mode)
        self.reader.eval()
        return self

    def remember(self, lit: Lit) -> Memories:
        """Keys and values of what is read, once for all steps."""
        return self.decoder.remember(lit.memory[lit.mask], lit.lengths)

    def prompt(self, asked: Sequence[int]) -> list[int]:
        """A question's ids as the decoder reads them, between the tokens that begin and end a text."""
        config = self.decoder.base.config
        ends = ([token] if isinstance(token, int) else [] for token in (config.bos_token_id, config.eos_token_id))
        return [*next(ends), *asked, *next(ends)]

    def states(self, memories: Memories, prompts: Sequence[Sequence[int]], written: Tensor) -> Tensor:
        """The decoder's (B, S, D) behind its prompts and each of (B, S - 1) words written."""
        asked, steps = max(map(len, prompts)), written.shape[1] + 1
        length = asked + steps - 1
        ids = F.pad(written, (asked, 0))
        seen = torch.ones_like(ids, dtype=torch.bool)
        places = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            begin = asked - len(prompt)
            ids[row, begin:asked] = torch.tensor(prompt, device=ids.device)
            seen[row, :begin] = False
            places[row, begin:] = torch.arange(length - begin, device=ids.device)
        allowed = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        allowed[:asked, :asked] = True
        # Padding sees itself, for a row without anything to see is no number.
        both = (allowed & seen[:, None]) | torch.eye(length, dtype=torch.bool, device=ids.device)
        dtype = next(self.decoder.base.parameters()).dtype
        mask = torch.zeros(both.shape, dtype=dtype, device=ids.device).masked_fill(~both, torch.finfo(dtype).min)
        inner = cast(nn.Module, self.decoder.base.model)
        made = inner(
            input_ids=ids, attention_mask=mask[:, None], position_ids=places, use_cache=False, xc_memories=memories
        )
        return made.last_hidden_state[:, asked - 1 :]

    def forward(self, lit: Lit, prompts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> Tensor:
        """(B,) negative log-probability of the words of each target; an empty one says that there is no answer."""
        device = lit.ids.device
        written = torch.zeros(len(targets), max(map(len, targets)), dtype=torch.int64, device=device)
        for row, target in enumerate(targets):
            written[row, : len(target)] = torch.tensor(target, dtype=torch.int64, device=device)
        states = self.states(self.remember(lit), prompts, written)
        copied, stopped, nothing = self.head(states, lit, self.head.key(lit.memory))
        begins, none = begin_logs(copied[:, 0], nothing, lit)
        goes, stops = step_logs(copied, stopped, lit)
        words = torch.tensor([len(target) for target in targets], device=device)
        path, gained = begins, none
        for step in range(written.shape[1]):
            path = path.masked_fill(lit.ids != written[:, step : step + 1], NEVER)
            ended = (path + stops[:, step + 1]).logsumexp(-1)
            gained = torch.where(words == step + 1, ended, gained)
            path = onward(path + goes[:, step + 1])
        return -gained


def begin_logs(copied: Tensor, nothing: Tensor, lit: Lit) -> tuple[Tensor, Tensor]:
    """Log-probabilities that a run begins at each token, (B, N), and that there is none, (B,)."""
    logits = torch.cat([copied.masked_fill(~lit.mask, NEVER), nothing[:, None]], -1).log_softmax(-1)
    return logits[:, :-1], logits[:, -1]


def step_logs(copied: Tensor, stopped: Tensor, lit: Lit) -> tuple[Tensor, Tensor]:
    """Log-probabilities, (B, S, N), that a run which has come to a token goes on behind it, and that it stops."""
    further = F.pad(lit.follows, (0, 1))[:, None, 1:]
    margin = (F.pad(copied, (0, 1))[..., 1:] - stopped).masked_fill(~further, NEVER)
    return F.logsigmoid(margin), F.logsigmoid(-margin)


def onward(path: Tensor) -> Tensor:
    """What was at a token is at the next one, (..., N)."""
    return F.pad(path, (1, 0), value=NEVER)[..., :-1]
