"""What the writer reads: cached states of a question's passages, one behind the other, in the light of the question.

A frozen encoder's states say nothing of the question, and a few blocks of cross-attention cannot make up for it. So a
span reader (`rag/reader`) goes over each passage first; what it makes of a token stands beside the token's state.

Shapes: B questions, N tokens of all passages of one, H encoder width, R reader width, C = H + R + 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..reader.batch import pad
from ..reader.decode import MAX_TOKENS
from ..reader.model import SpanReader
from ..states import States

_READ_AT_ONCE = 6_000
# Log-odds below it say nothing more; divided by the scale they are of the size of a state's numbers.
_LEAST, _SCALE = -30.0, 5.0
# Log-odds of a token as the first, as the last, and of an end among it and those behind it.
ODDS = 3


@dataclass(frozen=True)
class Lit:
    """Padded passages of B questions, each question's the best first.

    Attributes:
        memory: (B, N, C) states, the reader's features, its odds and the passage's log rank.
        odds: (B, N, 3) log-odds against no answer: first token, last token, last token among the next 24.
        log_rank: (B, N) of the token's passage, 0 for the best.
        ids: (B, N) int64.
        follows: (B, N) bool, whether the token before is of the same passage.
        mask: (B, N) bool, true for tokens.
    """

    memory: Tensor
    odds: Tensor
    log_rank: Tensor
    ids: Tensor
    follows: Tensor
    mask: Tensor

    @property
    def lengths(self) -> list[int]:
        """Tokens of each question's passages."""
        return self.mask.sum(1).tolist()


def light(reader: SpanReader, asked: Sequence[States], passages: Sequence[Sequence[States]]) -> Lit:
    """Read the passages of each question; every text has a token at least, and every question a passage."""
    owner = [row for row, own in enumerate(passages) for _ in own]
    texts = [states for own in passages for states in own]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    read: dict[int, Tensor] = {}
    while order:
        count = 1
        while count < len(order) and (count + 1) * len(texts[order[count]]) <= _READ_AT_ONCE:
            count += 1
        now, order = order[:count], order[count:]
        pairs = pad([texts[i] for i in now], [asked[owner[i]] for i in now], list(range(count)))
        pairs = pairs.to(reader.project.weight.device)
        passage = reader.passage(pairs.hidden, pairs.ids, pairs.mask)
        features, starts, ends = reader.lit(passage, pairs.asked_hidden, pairs.asked, pairs.known)
        rows = torch.cat([pairs.hidden, features.float(), _odds(starts, ends)], -1)
        read |= {i: row[: len(texts[i])] for i, row in zip(now, rows, strict=True)}
    return _side_by_side(read, passages)


def _odds(starts: Tensor, ends: Tensor) -> Tensor:
    first, last = ((logits[:, :-1] - logits[:, -1:]).clamp(min=_LEAST) for logits in (starts, ends))
    ahead = F.pad(last, (0, MAX_TOKENS - 1), value=_LEAST).unfold(1, MAX_TOKENS, 1).logsumexp(-1)
    return torch.stack([first, last, ahead], -1)


def _side_by_side(read: dict[int, Tensor], passages: Sequence[Sequence[States]]) -> Lit:
    device, width = read[0].device, read[0].shape[1]
    longest = max(sum(map(len, own)) for own in passages)
    shape = (len(passages), longest)
    rows = torch.zeros(*shape, width, device=device)
    log_rank = torch.zeros(shape, device=device)
    ids = torch.zeros(shape, dtype=torch.int64, device=device)
    follows, mask = (torch.zeros(shape, dtype=torch.bool, device=device) for _ in range(2))
    text = 0
    for question, own in enumerate(passages):
        start = 0
        for rank, states in enumerate(own, 1):
            place = slice(start, start + len(states))
            rows[question, place] = read[text]
            log_rank[question, place] = torch.tensor(float(rank)).log()
            ids[question, place] = torch.from_numpy(states.ids).to(device, torch.int64)
            follows[question, start + 1 : place.stop] = True
            mask[question, place] = True
            start, text = place.stop, text + 1
    odds = rows[..., -ODDS:]
    memory = torch.cat([rows[..., :-ODDS], odds / _SCALE, log_rank[..., None] / _SCALE], -1)
    return Lit(memory, odds, log_rank, ids, follows, mask)
