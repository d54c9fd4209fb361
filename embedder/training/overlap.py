"""Whether a training text shares word n-grams with texts that are only for reporting."""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_MIX = np.uint64(0x9E3779B97F4A7C15)


class NgramSet:
    """The word n-grams (lower-cased, punctuation left out) of a collection of texts.

    Grams are kept as 64-bit hashes, so a false hit is possible and vanishingly rare; a miss is not.
    """

    def __init__(self, texts: Iterable[str], n: int) -> None:
        self.n = n
        self._ids: dict[str, int] = {}
        hashes = [self._hashes([self._ids.setdefault(w, len(self._ids) + 1) for w in words(t)]) for t in texts]
        self._grams: NDArray[np.uint64] = np.unique(np.concatenate([*hashes, np.empty(0, np.uint64)]))

    def __len__(self) -> int:
        return len(self._grams)

    def shared(self, text: str) -> int:
        """How many n-grams of `text` (counted at each place) the collection holds."""
        hashes = self._hashes([self._ids.get(word, 0) for word in words(text)])
        if not len(hashes) or not len(self._grams):
            return 0
        places = np.minimum(np.searchsorted(self._grams, hashes), len(self._grams) - 1)
        return int((self._grams[places] == hashes).sum())

    def _hashes(self, ids: list[int]) -> NDArray[np.uint64]:
        count = len(ids) - self.n + 1
        if count <= 0:
            return np.empty(0, np.uint64)
        array = np.asarray(ids, np.uint64)
        result = np.zeros(count, np.uint64)
        for offset in range(self.n):
            result = (result ^ array[offset : offset + count]) * _MIX
            result ^= result >> np.uint64(29)
        return result


def words(text: str) -> list[str]:
    """The words that n-grams are made of."""
    return _WORD.findall(text.lower())
