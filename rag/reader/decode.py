"""From logits to spans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MAX_TOKENS = 24


@dataclass(frozen=True)
class Span:
    """Where an answer is in a passage, in tokens, both ends included.

    Attributes:
        score: log-odds of the span against the null answer.
        share: probability of the span among the passage's spans and the null answer.
    """

    first: int
    last: int
    score: float
    share: float


def best_spans(starts: Tensor, ends: Tensor, max_tokens: int = MAX_TOKENS) -> list[Span]:
    """The best span of each passage from (B, T + 1) logits whose last place is the null answer."""
    a, b = torch.log_softmax(starts.float(), -1), torch.log_softmax(ends.float(), -1)
    null = a[:, -1] + b[:, -1]
    a, b = a[:, :-1], b[:, :-1]
    length = a.shape[1]
    band = torch.ones(length, length, dtype=torch.bool, device=a.device).triu().tril(max_tokens - 1)
    scores = (a[:, :, None] + b[:, None]).masked_fill(~band, -torch.inf).flatten(1)
    best, where = scores.max(1)
    rows = zip(best.tolist(), where.tolist(), null.tolist(), strict=True)
    return [
        Span(place // length, place % length, score - none, float(torch.tensor(score).exp()))
        for score, place, none in rows
    ]


def span_odds(
    starts: Tensor, ends: Tensor, ranges: Sequence[tuple[int, int, int]], max_tokens: int = MAX_TOKENS
) -> list[float]:
    """Log-odds of all spans within ranges of tokens, each (row, first, last), against their passage's null answer."""
    a, b = torch.log_softmax(starts.float(), -1), torch.log_softmax(ends.float(), -1)
    found: list[float] = []
    for row, first, last in ranges:
        scores = a[row, first : last + 1, None] + b[row, None, first : last + 1]
        band = torch.ones_like(scores, dtype=torch.bool).triu().tril(max_tokens - 1)
        null = a[row, -1] + b[row, -1]
        found.append(float(scores.masked_fill(~band, -torch.inf).flatten().logsumexp(0) - null))
    return found
