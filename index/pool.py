"""Vectors held in memory, appended to as commits arrive; rows are never moved, so older views of them stay right."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .halves import Halves
from .topk import candidates

# Room for what is appended, beyond what is there: an eighth more.
SLACK = 8


@dataclass(frozen=True)
class VectorPool:
    """M unit vectors by key.

    Attributes:
        buffer: (capacity, D) float32, shared by a pool and the pools it was extended to.
        keys: (M,) int64; key i belongs to row i of the buffer.
        halves: of the buffer, shared as that is.
    """

    buffer: NDArray[np.float32]
    keys: NDArray[np.int64]
    halves: Halves = field(default_factory=Halves, repr=False)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def matrix(self) -> NDArray[np.float32]:
        """The (M, D) rows in use."""
        return self.buffer[: len(self.keys)]

    def candidates(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> list[NDArray[np.int64]]:
        """For each query, the rows that may be among its k best; see `topk.candidates`."""
        chosen = self.halves.candidates(self.matrix, queries, k, allowed)
        if chosen is None:
            return list(candidates(self.matrix, queries, k, allowed))
        first, found = chosen
        if first == len(self):
            return found
        behind = candidates(self.matrix[first:], queries, k, None if allowed is None else allowed[first:])
        return [np.concatenate([one, first + two]) for one, two in zip(found, behind, strict=True)]

    @classmethod
    def empty(cls, dimension: int) -> VectorPool:
        """A pool of nothing."""
        return cls(np.zeros((0, dimension), np.float32), np.zeros(0, np.int64))

    def extended(self, keys: NDArray[np.int64], rows: NDArray[np.float32]) -> VectorPool:
        """This pool and `rows` behind it; only the newest pool of a buffer may be extended."""
        used, total = len(self), len(self) + len(keys)
        if used == 0:
            return VectorPool(rows, keys)
        buffer = self.buffer
        if total > len(buffer):
            buffer = np.empty((total + total // SLACK, rows.shape[1]), np.float32)
            buffer[:used] = self.matrix
        buffer[used:total] = rows
        return VectorPool(buffer, np.concatenate([self.keys, keys]), self.halves)
