"""One vector of two: the last hidden state and the routers' choice (MoEE, arXiv 2410.10814)."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from .embeddings import Embeddings
from .errors import InputError


class Combination(StrEnum):
    """How the parts count.

    `concat`: side by side as the model gives them; the cosine weighs each by its length.
    `sum`: the inner product of a query's and a document's vector is cos(dense) + alpha * cos(router).
    """

    CONCAT = "concat"
    SUM = "sum"


def combined(
    embeddings: Embeddings, how: Combination | str = Combination.SUM, *, alpha: float = 1.0, query: bool = False
) -> NDArray[np.float32]:
    """Return (N, D + R) rows that hold both parts.

    Args:
        embeddings: with `dense` (N, D) and `router` (N, R).
        how: see `Combination`.
        alpha: weight of the router, at least 0; the published code's is 1. For `sum` it stands on the query's side
            alone, so that stored documents serve any alpha.
        query: whether these are queries; documents are independent of alpha under `sum`.

    Raises:
        InputError: if a part is missing, or alpha is negative.
    """
    try:
        how = Combination(how)
    except ValueError:
        raise InputError(f"unknown combination {how!r}: choose concat or sum") from None
    if embeddings.dense is None or embeddings.router is None:
        raise InputError("a combination needs both parts: encode with outputs=('dense', 'router')")
    if not alpha >= 0:
        raise InputError(f"alpha must be at least 0, not {alpha}")
    if how is Combination.CONCAT:
        return np.concatenate([embeddings.dense, np.float32(alpha) * embeddings.router], axis=1)
    weight = np.float32(alpha if query else 1.0)
    return np.concatenate([_unit(embeddings.dense), weight * _unit(embeddings.router)], axis=1)


def _unit(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
