"""`Embeddings`: what one call of `Encoder.encode` gives back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack


@dataclass(frozen=True)
class Embeddings:
    """The representations of N texts, in input order; a representation that was not asked for is None.

    Attributes:
        tokens: (N,) int32, tokens encoded per text, prompt and special tokens included.
        truncated: (N,) bool, whether the text was cut to fit the model's longest sequence.
        dense: (N, D) float32.
        sparse: (N, V) float32 CSR, V the vocabulary.
        router: (N, R) float32, R experts summed over MoE layers.
    """

    tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    dense: NDArray[np.float32] | None = None
    sparse: csr_array | None = None
    router: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    @classmethod
    def concatenate(cls, parts: Sequence[Embeddings]) -> Embeddings:
        """Join parts that hold the same representations, rows in the order given; at least one part."""
        if not parts:
            raise ValueError("nothing to concatenate")
        dense = [p.dense for p in parts if p.dense is not None]
        sparse = [p.sparse for p in parts if p.sparse is not None]
        router = [p.router for p in parts if p.router is not None]
        return cls(
            tokens=np.concatenate([p.tokens for p in parts]),
            truncated=np.concatenate([p.truncated for p in parts]),
            dense=np.concatenate(dense) if dense else None,
            sparse=csr_array(vstack(sparse, format="csr")) if sparse else None,
            router=np.concatenate(router) if router else None,
        )
