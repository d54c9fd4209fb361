"""Vectors to places on a plane: principal components, or t-SNE where neighbourhoods matter more than directions."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Method = Literal["pca", "tsne"]
EXPLAINED: dict[Method, str] = {
    "pca": "the two directions in which the passages differ most (PCA)",
    "tsne": "neighbours are alike, distances between groups mean little (t-SNE)",
}
# t-SNE reads this many principal components: the rest is noise to it, and costs time.
_COMPONENTS = 50
_PERPLEXITY = 30.0
_STEPS = 500
# Copies of one passage differ by no more than this, and have no directions.
_ALIKE = 1e-6
# How far outside of what the others fill strangers are drawn.
_EDGE = 0.03


def project(vectors: NDArray[np.float32], method: Method) -> NDArray[np.float32]:
    """Place N vectors, (N, D), on the unit square: (N, 2) float32, the same on every run.

    PCA and t-SNE (van der Maaten and Hinton 2008, with PCA for a start) are scikit-learn's.
    """
    if len(vectors) < 3:
        return np.linspace((0.5, 0.5), (0.75, 0.5), len(vectors), dtype=np.float32).reshape(-1, 2)
    if np.ptp(vectors, axis=0).max() < _ALIKE:
        return np.full((len(vectors), 2), 0.5, np.float32)
    centred = vectors - vectors.mean(axis=0)
    if method == "tsne" and len(vectors) > 4:
        return _to_square(_tsne(centred))
    return _to_square(_components(centred, 2))


def _components(vectors: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    from sklearn.decomposition import PCA

    most = min(count, *vectors.shape)
    placed: NDArray[np.float32] = PCA(most, svd_solver="randomized", random_state=0).fit_transform(vectors)
    return np.pad(placed, ((0, 0), (0, max(0, 2 - most))))


def _tsne(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    perplexity = min(_PERPLEXITY, (len(vectors) - 1) / 3)
    model = TSNE(2, perplexity=perplexity, init="pca", metric="cosine", max_iter=_STEPS, random_state=0, n_jobs=1)
    components = _components(vectors, _COMPONENTS)
    # It would take every core, and those are the encoder's.
    with threadpool_limits(1, user_api="openmp"):
        placed: NDArray[np.float32] = model.fit_transform(components)
    return placed


def _to_square(places: NDArray[np.float32]) -> NDArray[np.float32]:
    """Stretch each axis to 0..1; a few far strangers are pulled to the edge, so that they do not press the rest."""
    low, high = np.quantile(places, (0.005, 0.995), axis=0)
    room = np.maximum(high - low, 1e-9)
    near = np.clip((places - low) / room, -_EDGE, 1 + _EDGE)
    return ((near + _EDGE) / (1 + 2 * _EDGE)).astype(np.float32)
