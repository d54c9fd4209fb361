"""Rows of different lengths in one flat array: how tokenised texts are kept on disk and in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Row i is `values[offsets[i]:offsets[i + 1]]`; values (total,) uint16, offsets (rows + 1,) int64."""

    values: NDArray[np.uint16]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.uint16]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @classmethod
    def of(cls, rows: Iterable[Sequence[int]]) -> Self:
        """Gathers rows of token ids (each below 65,536)."""
        arrays = [np.asarray(row, np.uint16) for row in rows]
        lengths = np.fromiter((len(a) for a in arrays), np.int64, len(arrays))
        values = np.concatenate(arrays) if arrays else np.empty(0, np.uint16)
        return cls(values, np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]))

    def save(self, path: Path) -> None:
        """Writes both arrays uncompressed."""
        np.savez(path, values=self.values, offsets=self.offsets)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what `save` wrote."""
        with np.load(path) as stored:
            return cls(stored["values"], stored["offsets"])
