"""How much of the exact result the accelerated one finds, and how long each takes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .dense import DenseView
from .errors import QueryError
from .topk import Ranked, normalized


@dataclass(frozen=True)
class RecallReport:
    """Accelerated against exact dense search, query by query on one thread of control.

    Attributes:
        search: `exact` where no accelerator is in use (recall is then 1 by definition), or its kind.
        recall: mean share of the exact k best that were found; a found row that scores as high as the exact k-th
            counts, because ties have no right answer.
        milliseconds: (p50, p99) of one query with the accelerator.
        exact_milliseconds: the same without it.
    """

    search: str
    k: int
    queries: int
    recall: float
    milliseconds: tuple[float, float]
    exact_milliseconds: tuple[float, float]


def measure_recall(
    view: DenseView, vectors: NDArray[np.float32], k: int = 10, mask: NDArray[np.bool_] | None = None
) -> RecallReport:
    """Search each of (Q, D) query vectors both ways.

    Args:
        view: from `Searcher.view`.
        vectors: real queries' vectors; stored vectors as queries would flatter the accelerator.
        k: results compared.
        mask: (N,) rows that may be found, or None for all.
    """
    if not len(vectors):
        raise QueryError("recall needs at least one query")
    queries = normalized(vectors)
    exact, exact_seconds = _timed(view, queries, k, mask, exact=True)
    found, seconds = _timed(view, queries, k, mask, exact=False)
    recalls = [_recall(mine, truth) for mine, truth in zip(found, exact, strict=True)]
    kind = "exact" if view.sealed is None else str(view.sealed.manifest.facts["kind"])
    return RecallReport(
        kind, k, len(queries), float(np.mean(recalls)), _percentiles(seconds), _percentiles(exact_seconds)
    )


def _timed(
    view: DenseView, queries: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None, *, exact: bool
) -> tuple[list[Ranked], list[float]]:
    results: list[Ranked] = []
    seconds: list[float] = []
    for row in range(len(queries)):
        began = time.perf_counter()
        results += view.search(queries[row : row + 1], k, mask, exact=exact)
        seconds.append(time.perf_counter() - began)
    return results, seconds


def _recall(mine: Ranked, truth: Ranked) -> float:
    if not len(truth):
        return 1.0
    return min(1.0, float((mine.scores >= truth.scores[-1]).sum()) / len(truth))


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return float(p50), float(p99)
