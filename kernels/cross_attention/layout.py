"""Which queries see which stretch of cached context, and how that work is shared out evenly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from ..attention.ragged import Ragged


@dataclass(frozen=True)
class SplitPlan:
    """Equal shares of the context for a fixed number of workers (stream-K; LeanAttention, arXiv 2405.10480).

    Attributes:
        segments: (segments, 6) int32: first query, end of queries, first key, end of keys, key head, slot.
        shares: (workers + 1,) int32; worker w computes segments shares[w]:shares[w+1].
        merges: (merges, 5) int32: first query, end of queries, key head, first slot, end of slots; each names the
            partial results that together are one block of output rows.
        slots: number of partial results.
    """

    segments: Tensor
    shares: Tensor
    merges: Tensor
    slots: int


class CrossLayout:
    """Sequence i's queries see all of sequence i's context; either may be empty.

    Attributes:
        queries: queries per sequence.
        context: context tokens per sequence.
        ragged: the same as tables for kernels.
    """

    def __init__(self, queries: Sequence[int], context: Sequence[int], device: torch.device | str = "cpu") -> None:
        """Describe a batch.

        Raises:
            ValueError: if the two differ in length, or tokens do not fit into int32.
        """
        self.queries, self.context = list(queries), list(context)
        self.ragged = Ragged(self.queries, self.context, torch.device(device))
        self._plans: dict[tuple[int, ...], SplitPlan] = {}

    def split(self, *, kv_heads: int, block_queries: int, block_keys: int, workers: int) -> SplitPlan:
        """Share out the tiles of `block_keys` context tokens; made once per batch and kept for all layers.

        Args:
            kv_heads: key heads; a head's tiles follow those of the head before it.
            block_queries: query tokens a program holds.
            block_keys: context tokens of a tile.
            workers: programs to share between.
        """
        key = (kv_heads, block_queries, block_keys, workers)
        if key not in self._plans:
            self._plans[key] = self._plan(*key)
        return self._plans[key]

    def _plan(self, kv_heads: int, block_queries: int, block_keys: int, workers: int) -> SplitPlan:
        jobs = self._jobs(kv_heads, block_queries)
        tiles = sum(-(-(end - begin) // block_keys) for *_, begin, end in jobs)
        share = max(1, -(-tiles // workers))
        segments: list[tuple[int, ...]] = []
        merges: list[tuple[int, ...]] = []
        shares = [0]
        room = share
        for first, last, head, begin, end in jobs:
            slot = len(segments)
            while begin < end:
                stop = min(begin + room * block_keys, end)
                segments.append((first, last, begin, stop, head, len(segments)))
                room -= -(-(stop - begin) // block_keys)
                begin = stop
                if room == 0:
                    shares.append(len(segments))
                    room = share
            merges.append((first, last, head, slot, len(segments)))
        if shares[-1] < len(segments):
            shares.append(len(segments))
        device = self.ragged.device

        def table(rows: list[tuple[int, ...]], width: int) -> Tensor:
            return torch.tensor(rows, dtype=torch.int32).reshape(-1, width).to(device, non_blocking=True)

        return SplitPlan(
            table(segments, 6), torch.tensor(shares, dtype=torch.int32).to(device), table(merges, 5), len(segments)
        )

    def _jobs(self, kv_heads: int, block_queries: int) -> list[tuple[int, int, int, int, int]]:
        """Blocks of output: first query, end of queries, key head, first key, end of keys."""
        jobs: list[tuple[int, int, int, int, int]] = []
        ends = zip(accumulate(self.queries), accumulate(self.context), strict=True)
        for queries, context, (query_end, key_end) in zip(self.queries, self.context, ends, strict=True):
            for first in range(query_end - queries, query_end, block_queries):
                last = min(first + block_queries, query_end)
                jobs += [(first, last, head, key_end - context, key_end) for head in range(kv_heads)]
        return jobs
