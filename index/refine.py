"""What is done to a ranked list before it is shown: rerank, spread out, at most a few chunks of one document.

The order of the steps is fixed: a reranker scores the candidates again, maximal marginal relevance (Carbonell and
Goldstein, SIGIR 1998) orders them so that they differ from each other, and grouping keeps each document's best chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .documents import Hit
from .errors import QueryError

# Hits that a reranker or a spread sees for each hit wanted, and at least.
DEPTH_FACTOR, LEAST_DEPTH = 5, 50


class Reranker(Protocol):
    """Scores a query's hits again; higher is better."""

    def scores(self, query: str, hits: Sequence[Hit]) -> NDArray[np.float32]:
        """One score per hit."""
        ...


@dataclass(frozen=True)
class Refine:
    """What to do after searching.

    Attributes:
        per_document: most chunks of one document, or None for any number.
        diversity: 0 orders by relevance alone, 1 by difference from what stands above alone; None leaves it out.
        reranker: scores the candidates again, or None.
        depth: how many hits are reranked or spread; None for five times the results wanted, at least 50.
    """

    per_document: int | None = None
    diversity: float | None = None
    reranker: Reranker | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.per_document is not None and self.per_document < 1:
            raise QueryError(f"at most {self.per_document} chunks per document would find nothing: give 1 or more")
        if self.diversity is not None and not 0 <= self.diversity <= 1:
            raise QueryError(f"the diversity is {self.diversity}: give a number from 0 to 1")
        if self.depth is not None and self.depth < 1:
            raise QueryError(f"the depth is {self.depth}: give 1 or more")

    def fetch(self, k: int) -> int:
        """How many hits to search for where k are wanted."""
        if self.reranker is None and self.diversity is None:
            return k
        return max(k, self.depth or max(LEAST_DEPTH, DEPTH_FACTOR * k))


def reranked(query: str, hits: Sequence[Hit], reranker: Reranker) -> list[Hit]:
    """Hits by the reranker's scores, which they then carry; equal scores keep their order."""
    if not hits:
        return []
    scores = np.asarray(reranker.scores(query, hits), np.float32)
    if scores.shape != (len(hits),) or not np.isfinite(scores).all():
        raise QueryError("the reranker gave no finite score for each hit: use another one")
    order = np.argsort(-scores, kind="stable")
    return [replace(hits[i], score=float(scores[i])) for i in order]


def spread(hits: Sequence[Hit], vectors: NDArray[np.float32], diversity: float, k: int) -> list[Hit]:
    """The k hits of maximal marginal relevance, in that order; scores stay what they were.

    Args:
        hits: candidates, best first.
        vectors: (len(hits), D) unit rows, theirs.
        diversity: weight of the greatest cosine to a hit already taken; relevance, scaled to 0 to 1, has the rest.
        k: how many.
    """
    scores = np.array([hit.score for hit in hits])
    span = np.ptp(scores) if len(scores) else 0.0
    relevance = (scores - scores.min()) / span if span > 0 else np.ones(len(scores))
    nearest = np.zeros(len(hits))
    left, taken = list(range(len(hits))), list[int]()
    while left and len(taken) < k:
        best = max(left, key=lambda i: ((1 - diversity) * relevance[i] - diversity * nearest[i], -i))
        taken.append(best)
        left.remove(best)
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return [hits[i] for i in taken]


def grouped(hits: Sequence[Hit], per_document: int) -> list[Hit]:
    """Hits in their order, without those beyond the first few of their document."""
    counts: dict[str, int] = {}
    kept: list[Hit] = []
    for hit in hits:
        counts[hit.chunk.doc_id] = counts.get(hit.chunk.doc_id, 0) + 1
        if counts[hit.chunk.doc_id] <= per_document:
            kept.append(hit)
    return kept
