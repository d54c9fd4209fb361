"""How well a model brings translations together, layer by layer: MEXA (Kargaran et al. 2024, arXiv 2410.05873).

A pair counts where its cosine is strictly the largest of its row and of its column, among all sentences of the other
language. A model that cannot tell translations from other sentences reaches about 1 / (2n - 1) of n pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ..kernels.pooling import pool
from .encoder import Encoder
from .errors import InputError
from .layers import layer_states


class SentenceVector(StrEnum):
    """How a sentence's vector is made of a layer: by a mean that weighs tokens by position, or of its last token."""

    WEIGHTED = "weighted"
    LAST = "last"


@dataclass(frozen=True)
class Alignment:
    """A model's scores on parallel text.

    Attributes:
        pairs: n, how many.
        layers: share of aligned pairs by layer, the embeddings first.
        vectors: the same of the model's own dense vectors; None where it makes none.
    """

    pairs: int
    layers: list[float]
    vectors: float | None

    @property
    def mean(self) -> float:
        """Mean over the layers."""
        return float(np.mean(self.layers))

    @property
    def best(self) -> float:
        """Largest of the layers."""
        return max(self.layers)

    @property
    def chance(self) -> float:
        """What vectors that know nothing are expected to reach."""
        return 1 / (2 * self.pairs - 1)


def aligned_share(first: NDArray[np.floating], second: NDArray[np.floating]) -> float:
    """Share of rows i whose cosine with their counterpart is strictly the largest in row and column.

    Args:
        first: (n, D) vectors of sentences.
        second: (n, D) vectors of their translations.

    Raises:
        InputError: fewer than two pairs, or as many sentences on both sides there are not.
    """
    if len(first) != len(second) or len(first) < 2:
        raise InputError(f"MEXA compares two or more pairs, not {len(first)} sentences with {len(second)}")
    scores = _unit(first) @ _unit(second).T
    own = scores.diagonal().copy()
    np.fill_diagonal(scores, -np.inf)
    return float(((own > scores.max(0)) & (own > scores.max(1))).mean())


def mexa(
    encoder: Encoder,
    first: Sequence[str],
    second: Sequence[str],
    *,
    sentence: SentenceVector = SentenceVector.WEIGHTED,
    kind: str = "document",
    batch_tokens: int | None = None,
) -> Alignment:
    """Score every layer of an encoder on sentences and their translations.

    Args:
        encoder: any encoder; what its spec does not pool, a prompt for instance, is left out here as well.
        first: n sentences.
        second: their translations in the same order.
        sentence: how a layer's states become one vector.
        kind: which prompt stands before the sentences.
        batch_tokens: token budget of one forward.

    Raises:
        InputError: fewer than two pairs, sides of different length, or a text that cannot be read.
    """
    if len(first) != len(second):
        raise InputError(f"parallel text has as many sentences on both sides, not {len(first)} and {len(second)}")
    one, other = (_by_layer(encoder, side, sentence, kind, batch_tokens) for side in (first, second))
    layers = [aligned_share(a, b) for a, b in zip(one, other, strict=True)]
    vectors = None
    if "dense" in encoder.outputs:
        sides = [encoder.encode(list(side), kind=kind, outputs=("dense",)).dense for side in (first, second)]
        vectors = aligned_share(*(side for side in sides if side is not None))
    return Alignment(len(first), layers, vectors)


def _by_layer(
    encoder: Encoder, texts: Sequence[str], sentence: SentenceVector, kind: str, batch_tokens: int | None
) -> list[NDArray[np.float32]]:
    found: list[NDArray[np.float32]] = []
    for batch in layer_states(encoder, texts, kind=kind, batch_tokens=batch_tokens):
        for number, states in enumerate(batch.states):
            vectors = pool(states, batch.layout, batch.keep, mode=sentence.value, count_kept=True)
            if number == len(found):
                found.append(np.empty((len(texts), vectors.shape[1]), np.float32))
            found[number][batch.texts] = vectors.float().cpu().numpy()
    return found


def _unit(vectors: NDArray[np.floating]) -> NDArray[np.float64]:
    wide = np.asarray(vectors, np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), 1e-300)
