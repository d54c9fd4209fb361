"""Which rows of one packed tensor see which rows of another, and the tables kernels need of it.

A table lists tiles: at most `block` neighbouring rows that one program computes. A long sequence is cut into several
tiles, several short ones share a tile whole, so that a batch of short texts fills the matrix units too and no program
is started for nothing, however unequal the lengths are. Tables are made once per batch on the host, where the lengths
are known, and serve all layers.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor

Side = Literal["queries", "keys"]
MAX_TOKENS = 2**31 - 1


class Ragged:
    """Sequence i's queries see sequence i's keys; counts may be zero.

    Attributes:
        queries: queries per sequence.
        keys: keys per sequence.
        device: where the tables go.
    """

    def __init__(self, queries: Sequence[int], keys: Sequence[int], device: torch.device) -> None:
        """Describe the pairs.

        Raises:
            ValueError: if the two do not describe the same number of sequences, or tokens do not fit into int32.
        """
        if len(queries) != len(keys):
            raise ValueError(f"{len(queries)} sequences of queries cannot see {len(keys)} of keys")
        self.queries, self.keys, self.device = list(queries), list(keys), device
        self._ends = {"queries": list(accumulate(self.queries)), "keys": list(accumulate(self.keys))}
        if max(self.total("queries"), self.total("keys")) > MAX_TOKENS:
            raise ValueError(f"a packed batch holds at most {MAX_TOKENS} tokens: cut it")
        self._tiles: dict[tuple[str, int, int], Tensor] = {}
        self._bounds: dict[str, tuple[Tensor, Tensor]] = {}

    def total(self, side: Side) -> int:
        """Rows of one side's tensor."""
        return self._ends[side][-1] if self._ends[side] else 0

    def tiles(self, side: Side, block: int, most: int = MAX_TOKENS) -> Tensor:
        """Cut one side's rows into tiles, those with most to look at first.

        Args:
            side: whose rows are cut.
            block: rows of a tile at most.
            most: sequences of a tile at most.

        Returns:
            (tiles, 6) int32: first row, end of rows, first and end of the other side's rows, first and end of the
            sequences.
        """
        key = (side, block, most)
        if key not in self._tiles:
            found = self._cut(side, block, most)
            found.sort(key=lambda tile: tile[2] - tile[3])
            table = torch.tensor(found, dtype=torch.int32).reshape(-1, 6)
            self._tiles[key] = table.to(self.device, non_blocking=True)
        return self._tiles[key]

    def groups(self, block: int) -> Tensor:
        """Gather short sequences into groups of at most `block` queries; a longer one is a group of its own.

        Returns:
            (groups, 4) int32: first query, end of queries, first and end of the sequences; longest first.
        """
        key = ("groups", block, 0)
        if key not in self._tiles:
            found: dict[int, tuple[int, int, int, int]] = {}
            for begin, end, *_, sequence, last in self._cut("queries", block, MAX_TOKENS):
                found[sequence] = (found.get(sequence, (begin,))[0], end, sequence, last)
            rows = sorted(found.values(), key=lambda group: group[0] - group[1])
            self._tiles[key] = torch.tensor(rows, dtype=torch.int32).reshape(-1, 4).to(self.device, non_blocking=True)
        return self._tiles[key]

    def _cut(self, side: Side, block: int, most: int) -> list[tuple[int, int, int, int, int, int]]:
        mine = self._ends[side]
        other = self._ends["keys" if side == "queries" else "queries"]
        found: list[tuple[int, int, int, int, int, int]] = []
        sequence, begin, other_begin = 0, 0, 0
        while sequence < len(mine):
            fitting = min(bisect_right(mine, begin + block, lo=sequence), sequence + most)
            last = max(fitting, sequence + 1)
            end, other_end = mine[last - 1], other[last - 1]
            rows = range(begin, end, block)
            found += [(row, min(row + block, end), other_begin, other_end, sequence, last) for row in rows]
            sequence, begin, other_begin = last, end, other_end
        return found

    def bounds(self, side: Side) -> tuple[Tensor, Tensor]:
        """For each row of one side, first and end of the other side's rows it meets: (rows,) int32 each."""
        if side not in self._bounds:
            mine = torch.tensor(self.queries if side == "queries" else self.keys, dtype=torch.int64)
            ends = torch.tensor(self._ends["keys" if side == "queries" else "queries"], dtype=torch.int32)
            starts = torch.cat([ends.new_zeros(1), ends[:-1]])[: len(ends)]
            first, end = (x.repeat_interleave(mine).to(self.device) for x in (starts, ends))
            self._bounds[side] = (first, end)
        return self._bounds[side]
