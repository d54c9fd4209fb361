"""The k best rows by cosine: exact, with ties that fall the same way every time.

A matrix product's last bits depend on where a row lies in the matrix, so scores from it only choose candidates;
those are scored again in float64 and rounded to float32, which is the same number wherever the row lies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from .faiss_threads import MANY

# Two float32 sums of D products of unit vectors differ by far less; every true member of the top k is a candidate.
CANDIDATE_MARGIN = 1e-5
# Scores held at once, 4 bytes each; larger blocks were no faster.
BLOCK_SCORES = 8_000_000
NORMALIZE_ROWS = 16_384
_FAISS: Any = faiss


@dataclass(frozen=True)
class Ranked:
    """The rows of one list, best first.

    Attributes:
        positions: (n,) rows of the snapshot.
        scores: (n,) float32, falling.
    """

    positions: NDArray[np.int64]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.positions)

    def head(self, k: int) -> Ranked:
        """The first k."""
        return Ranked(self.positions[:k], self.scores[:k])


EMPTY = Ranked(np.zeros(0, np.int64), np.zeros(0, np.float32))


def ranked(positions: NDArray[np.int64], scores: NDArray[np.float32], names: NDArray[np.bytes_], k: int) -> Ranked:
    """Order rows by falling score, equal scores by name (one per row), and keep k."""
    order = np.lexsort((names, -scores))[:k]
    return Ranked(positions[order], scores[order])


def normalize(vectors: NDArray[np.float32]) -> None:
    """Bring the rows of (N, D) to unit length in place; a zero row stays zero."""
    for start in range(0, len(vectors), NORMALIZE_ROWS):
        rows = vectors[start : start + NORMALIZE_ROWS]
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        np.divide(rows, norms, out=rows, where=norms > 0)


def normalized(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """A copy of (N, D) as float32 rows of unit length."""
    copy = np.array(vectors, np.float32)
    normalize(copy)
    return copy


def candidates(
    matrix: NDArray[np.float32], queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
) -> Iterator[NDArray[np.int64]]:
    """For each query, the rows of `matrix` that may be among its k best.

    Args:
        matrix: (N, D) unit rows.
        queries: (Q, D) unit rows.
        k: how many are wanted.
        allowed: (N,) rows that may be found, or None for all.

    Yields:
        Q arrays of row numbers in rising order, at least min(k, allowed rows) long.
    """
    rows = None if allowed is None else np.flatnonzero(allowed)
    if rows is not None and 4 * len(rows) < len(matrix):
        for found in candidates(matrix[rows], queries, k, None):
            yield rows[found]
        return
    step = max(1, BLOCK_SCORES // max(1, len(matrix)))
    for start in range(0, len(queries), step):
        block = _products(queries[start : start + step], matrix)
        if allowed is not None:
            block[:, ~allowed] = -np.inf
        yield from _best(block, k)


def _products(queries: NDArray[np.float32], matrix: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, N) inner products; of few queries on one thread, see `faiss_threads`: as soon done, for less."""
    if len(queries) >= MANY or not (matrix.flags.c_contiguous and queries.flags.c_contiguous):
        return queries @ matrix.T
    block = np.empty((len(queries), len(matrix)), np.float32)
    for scores, query in zip(block, queries, strict=True):
        _FAISS.fvec_inner_products_ny(*map(faiss.swig_ptr, (scores, query, matrix)), matrix.shape[1], len(matrix))
    return block


def exact_scores(vectors: NDArray[np.float32], query: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of (C, D) unit rows with a unit query (D,), independent of the rows' order."""
    return (vectors.astype(np.float64) @ query.astype(np.float64)).astype(np.float32)


def _best(block: NDArray[np.float32], k: int) -> Iterator[NDArray[np.int64]]:
    width = block.shape[1]
    if k >= width:
        for scores in block:
            yield np.flatnonzero(scores > -np.inf)
        return
    floors = np.partition(block, width - k, axis=1)[:, width - k]
    for scores, floor in zip(block, floors, strict=True):
        # With fewer than k allowed rows the floor is -inf, which no comparison below it may let through.
        yield np.flatnonzero(scores >= max(floor - CANDIDATE_MARGIN, np.finfo(np.float32).min))
