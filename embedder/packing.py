"""Token-budget packing: texts sorted by length, cut into batches that hold no padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def pack_by_length(lengths: Sequence[int], budget_tokens: int) -> list[NDArray[np.int64]]:
    """Split texts into batches of at most `budget_tokens` tokens, longest first.

    Sorting puts equal lengths side by side, where attention runs on them as one dense block; starting with the
    longest meets an out-of-memory error at the first batch and not at the last.

    Args:
        lengths: tokens per text.
        budget_tokens: limit of a batch; a text beyond it gets a batch of its own.

    Returns:
        One (texts,) int64 array of indices into `lengths` per batch; each text is in exactly one.
    """
    if budget_tokens < 1:
        raise ValueError(f"the token budget must be positive, not {budget_tokens}")
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    batches: list[NDArray[np.int64]] = []
    begin = used = 0
    for position, text in enumerate(order):
        length = lengths[text]
        if used + length > budget_tokens and position > begin:
            batches.append(order[begin:position])
            begin, used = position, 0
        used += length
    if begin < len(order):
        batches.append(order[begin:])
    return batches


def pack_evenly(lengths: Sequence[int], budget_tokens: int, multiple: int) -> list[NDArray[np.int64]]:
    """Split texts as `pack_by_length` into a multiple of so many batches of about as many tokens each.

    A batch may hold part of a text more than `budget_tokens`; where texts are few, there are fewer batches.
    """
    order = np.argsort(-np.asarray(lengths, dtype=np.int64), kind="stable")
    ends = np.cumsum(np.asarray(lengths, dtype=np.int64)[order])
    total = int(ends[-1]) if len(ends) else 0
    count = multiple * max(1, -(-total // (multiple * budget_tokens)))
    middles = ends - np.asarray(lengths, dtype=np.int64)[order] / 2
    cuts = np.searchsorted(middles, total * np.arange(1, count) / count)
    return [part for part in np.split(order, cuts) if len(part)]
