"""Vectors held in memory, appended to as commits arrive; rows are never moved, so older views of them stay right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# Room for what is appended, beyond what is there: an eighth more.
SLACK = 8


@dataclass(frozen=True)
class VectorPool:
    """M unit vectors by key.

    Attributes:
        buffer: (capacity, D) float32, shared by a pool and the pools it was extended to.
        keys: (M,) int64; key i belongs to row i of the buffer.
    """

    buffer: NDArray[np.float32]
    keys: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def matrix(self) -> NDArray[np.float32]:
        """The (M, D) rows in use."""
        return self.buffer[: len(self.keys)]

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
        return VectorPool(buffer, np.concatenate([self.keys, keys]))
