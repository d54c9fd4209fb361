"""How much of the exact result the accelerated one finds, and how long each takes, in any mode."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..embedder.embeddings import Embeddings
from .errors import QueryError
from .lance_ann import kind_of
from .modes import parse_mode
from .searcher import Query, Rows, Searcher
from .snapshot import Snapshot
from .topk import Ranked


@dataclass(frozen=True)
class RecallReport:
    """Accelerated against exact search, query by query on one thread of control; encoding is not timed.

    Attributes:
        mode: what was searched.
        search: how, by single mode: `exact` where no accelerator is in use (recall is then 1 by definition), or its
            kind; `full text` for lexical, which is always exact.
        recall: mean share of the exact k best that were found; a found row that scores as high as the exact k-th
            counts, because ties have no right answer.
        milliseconds: (p50, p99) of one query with the accelerator.
        exact_milliseconds: the same without it.
    """

    mode: str
    search: str
    k: int
    queries: int
    recall: float
    milliseconds: tuple[float, float]
    exact_milliseconds: tuple[float, float]


def measure_recall(
    searcher: Searcher,
    queries: Sequence[str],
    *,
    mode: str = "dense",
    k: int = 10,
    filter: str | None = None,
    vectors: NDArray[np.float32] | Embeddings | None = None,
) -> RecallReport:
    """Search for real queries with and without the accelerators; raises as `Searcher.search` does.

    Args:
        searcher: of the store.
        queries: as people ask them; the store's own texts as queries would flatter the accelerator.
        mode: as in `Searcher.search`.
        k: results compared.
        filter: as in `Searcher.search`.
        vectors: the queries', where they are at hand, as in `Searcher.search_many`.
    """
    if not queries:
        raise QueryError("recall needs at least one query")
    given = searcher.representations(queries, mode, vectors)
    how = Query(parse_mode(mode, searcher.store.meta.layout), k, filter, True, searcher.fusion, searcher.router_weight)

    def run(snapshot: Snapshot) -> RecallReport:
        exact, exact_seconds = _timed(searcher, snapshot, queries, given, how)
        found, seconds = _timed(searcher, snapshot, queries, given, replace(how, exact=False))
        recalls = [_recall(mine, truth) for mine, truth in zip(found, exact, strict=True)]
        kind = ", ".join(dict.fromkeys(_kind(searcher, name) for name in how.modes))
        return RecallReport(
            mode, kind, k, len(queries), float(np.mean(recalls)), _percentiles(seconds), _percentiles(exact_seconds)
        )

    return searcher.store.read(run)


def _timed(
    searcher: Searcher,
    snapshot: Snapshot,
    queries: Sequence[str],
    given: dict[str, Rows],
    how: Query,
) -> tuple[list[Ranked], list[float]]:
    rows = [{name: matrix[[row]] for name, matrix in given.items()} for row in range(len(queries))]
    searcher.ranked(snapshot, queries[:1], rows[0], how)  # the first query of a snapshot loads its vectors
    results: list[Ranked] = []
    seconds: list[float] = []
    for query, own in zip(queries, rows, strict=True):
        began = time.perf_counter()
        [found] = searcher.ranked(snapshot, [query], own, how)
        seconds.append(time.perf_counter() - began)
        results.append(found.ranked)
    return results, seconds


def _kind(searcher: Searcher, mode: str) -> str:
    if mode == "lexical":
        return "full text"
    if mode == "sparse":
        return "seismic" if searcher.views.sparse_generation.value() else "exact"
    if own := kind_of(searcher.store.snapshot()):
        return own
    sealed = searcher.views.dense_generation.value()
    return "exact" if sealed is None else str(sealed.manifest.facts["kind"])


def _recall(mine: Ranked, truth: Ranked) -> float:
    if not len(truth):
        return 1.0
    return min(1.0, float((mine.scores >= truth.scores[-1]).sum()) / len(truth))


def _percentiles(seconds: Sequence[float]) -> tuple[float, float]:
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return float(p50), float(p99)
