"""Vectors of sentences, remembered: a passage that is found again is not encoded again, sentence by sentence."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..index.encoder import Encoder

BUDGET_BYTES = 64 << 20
# What a row costs beside its vector and its text.
_ROW_BYTES = 300


class SentenceVectors:
    """Unit vectors of sentences by a tenant's own memory, the least recently used go first; threads may share it.

    A tenant's question takes as long as if nobody else had asked, see `ContextCache`.
    """

    def __init__(self, encoder: Encoder, *, budget_bytes: int = BUDGET_BYTES) -> None:
        """Remember as much as fits into `budget_bytes`, of all tenants together."""
        self.encoder = encoder
        self._budget = budget_bytes
        self._rows: OrderedDict[tuple[str, str], NDArray[np.float32]] = OrderedDict()
        self._held = 0
        self._guard = threading.Lock()

    def get(self, sentences: Sequence[str], tenant: str = "") -> NDArray[np.float32]:
        """(N, D) float32; what is not remembered is encoded together.

        Raises:
            InputError: see `Encoder.encode`.
        """
        found: dict[str, NDArray[np.float32]] = {}
        with self._guard:
            for text in sentences:
                if (row := self._rows.get((tenant, text))) is not None:
                    self._rows.move_to_end((tenant, text))
                    found[text] = row
        if missing := [text for text in dict.fromkeys(sentences) if text not in found]:
            made = unit_vectors(self.encoder, missing, "document")
            found |= zip(missing, made, strict=True)
            self._keep(tenant, missing, made)
        return np.stack([found[text] for text in sentences])

    def _keep(self, tenant: str, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        with self._guard:
            for text, vector in zip(texts, vectors, strict=True):
                if (tenant, text) not in self._rows:
                    self._rows[tenant, text] = vector.copy()  # else one row would hold the whole batch in memory
                    self._held += _size(text, vector)
            while self._held > self._budget:
                (_, text), vector = self._rows.popitem(last=False)
                self._held -= _size(text, vector)


def unit_vectors(encoder: Encoder, texts: Sequence[str], kind: str) -> NDArray[np.float32]:
    """(N, D) float32 dense vectors of length one."""
    dense = encoder.encode(list(texts), kind=kind).dense
    assert dense is not None
    return unit(dense)


def unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each row scaled to length one; zeros stay zeros."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _size(text: str, vector: NDArray[np.float32]) -> int:
    return vector.nbytes + 4 * len(text) + _ROW_BYTES
