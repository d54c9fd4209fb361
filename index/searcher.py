"""`Searcher`: a question in, ranked chunks out; dense, lexical, or both fused by reciprocal ranks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import accelerator
from .dense import DenseView, view_of
from .documents import Hit
from .encoder import Encoder
from .errors import QueryError
from .fusion import RRF_K, ranks_of, reciprocal_rank_fusion
from .generations import UnusableGeneration
from .lexical import search_text
from .opening import model_name
from .recall import RecallReport, measure_recall
from .snapshot import HIT_COLUMNS, Snapshot, chunk_of, metadata_of
from .store import Store
from .topk import Ranked, normalized

MODES = ("dense", "lexical", "hybrid")
MAX_RESULTS = 10_000
# How deep each list is read before fusion: 100, or twice the results wanted if that is more.
FUSION_DEPTH = 100
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """One query's result before texts are fetched.

    Attributes:
        lists: what each searched mode found; what `ranked` was fused from.
    """

    ranked: Ranked
    lists: dict[str, Ranked]


class Searcher:
    """Searches one store with the encoder that made it. Threads may share it.

    Every call sees the newest commit, and all of a call sees the same one.
    """

    def __init__(self, store: Store, encoder: Encoder, *, rrf_k: int = RRF_K) -> None:
        """Raises `StoreMismatch` if the encoder is not the store's."""
        store.meta.require_fingerprint(encoder.fingerprint, model_name(encoder), store.root)
        self._store = store
        self._encoder = encoder
        self._rrf_k = rrf_k
        self._guard = threading.Lock()
        self._view: DenseView | None = None
        self._loaded = ""
        self._sealed: accelerator.Accelerator | None = None
        self.dense_reason = ""

    def search(
        self, query: str, *, mode: str = "hybrid", k: int = 10, filter: str | None = None, exact: bool = False
    ) -> list[Hit]:
        """The k best chunks for a query.

        Args:
            query: what to look for, in plain words.
            mode: `dense` (cosine), `lexical` (BM25) or `hybrid` (both, fused by RRF).
            k: how many at most, 1 to 10,000.
            filter: conditions on fields, see `filters`; chunks that fail them are not searched.
            exact: search every vector even where an accelerator exists.

        Returns:
            Hits by falling score, equal scores by chunk id.

        Raises:
            QueryError: an empty query, an unknown mode, an impossible k.
            FilterError: the filter makes no sense.
        """
        return self.search_many([query], mode=mode, k=k, filter=filter, exact=exact)[0]

    def search_many(
        self,
        queries: Sequence[str],
        *,
        mode: str = "hybrid",
        k: int = 10,
        filter: str | None = None,
        exact: bool = False,
        vectors: NDArray[np.float32] | None = None,
    ) -> list[list[Hit]]:
        """`search` for many queries, encoded together; results in the order of the queries.

        `vectors`, (Q, D), are the queries' own where the caller has encoded them already.
        """
        _check(queries, mode, k)
        if mode == "lexical" or not queries:
            vectors = None
        elif vectors is None:
            vectors = self._encode(queries)
        elif len(vectors) != len(queries):
            raise QueryError(f"{len(queries)} queries with {len(vectors)} vectors: give one each")
        else:
            self._check_vectors(vectors)

        def run(snapshot: Snapshot) -> list[list[Hit]]:
            return _hits(snapshot, self._find(snapshot, queries, vectors, mode, k, filter, exact))

        return self._store.read(run)

    def search_vectors(
        self, vectors: NDArray[np.float32], *, k: int = 10, filter: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """Dense search for (Q, D) query vectors, which need not have unit length.

        Raises:
            QueryError: vectors of another width, or with NaN or infinity.
        """
        _check((), "dense", k)
        self._check_vectors(vectors)

        def run(snapshot: Snapshot) -> list[list[Hit]]:
            return _hits(snapshot, self._find(snapshot, (), vectors, "dense", k, filter, exact))

        return self._store.read(run)

    def measure_recall(self, queries: Sequence[str], *, k: int = 10, filter: str | None = None) -> RecallReport:
        """Search densely for real queries with and without the accelerator; raises as `search` does."""
        _check(queries, "dense", k)
        vectors = self._encode(queries) if queries else np.zeros((0, self._store.meta.dimension), np.float32)

        def run(snapshot: Snapshot) -> RecallReport:
            mask = snapshot.mask(filter) if filter is not None else None
            return measure_recall(self.view(snapshot), vectors, k, mask)

        return self._store.read(run)

    def view(self, snapshot: Snapshot) -> DenseView:
        """The dense side of a snapshot; vectors already in memory are kept."""
        with self._guard:
            sealed = self._accelerator()
            old = self._view
            if old is None or old.snapshot is not snapshot or old.sealed is not sealed:
                self._view = view_of(snapshot, sealed, old.pool if old else None)
            assert self._view is not None
            return self._view

    def _find(
        self,
        snapshot: Snapshot,
        queries: Sequence[str],
        vectors: NDArray[np.float32] | None,
        mode: str,
        k: int,
        filter: str | None,
        exact: bool,
    ) -> list[Found]:
        depth = max(FUSION_DEPTH, 2 * k) if mode == "hybrid" else k
        lists: dict[str, list[Ranked]] = {}
        if vectors is not None:
            mask = snapshot.mask(filter) if filter is not None else None
            lists["dense"] = self.view(snapshot).search(normalized(vectors), depth, mask, exact=exact)
        if mode != "dense":
            where = snapshot.filter_sql(filter) if filter is not None else None
            lists["lexical"] = [search_text(snapshot, query, depth, where) for query in queries]
        found = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        if mode != "hybrid":
            return [Found(row[mode], row) for row in found]
        names = snapshot.chunk_ids
        return [Found(reciprocal_rank_fusion(row, names, k, rrf_k=self._rrf_k), row) for row in found]

    def _encode(self, queries: Sequence[str]) -> NDArray[np.float32]:
        vectors = self._encoder.encode(queries, kind="query").dense
        if vectors is None:
            raise QueryError("this model makes no dense vectors: search with mode lexical")
        self._check_vectors(vectors)
        return vectors

    def _check_vectors(self, vectors: NDArray[np.float32]) -> None:
        width = self._store.meta.dimension
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise QueryError(f"query vectors of shape {vectors.shape}, this store's have {width} dimensions")
        if not np.isfinite(vectors).all():
            raise QueryError("a query vector holds NaN or infinity: the model failed on that query")

    def _accelerator(self) -> accelerator.Accelerator | None:
        folder = self._store.dense_folder
        mark = accelerator.current(folder)
        if mark != self._loaded:
            self._loaded = mark
            try:
                self._sealed = accelerator.load(folder, self._store.meta.fingerprint, self._store.meta.dimension)
                self.dense_reason = ""
            except UnusableGeneration as reason:
                self._sealed = None
                self.dense_reason = f"the accelerator is not used because {reason}: build it again"
                _log.warning("%s: exact search, %s", self._store.root, self.dense_reason)
        return self._sealed


def _hits(snapshot: Snapshot, results: Sequence[Found]) -> list[list[Hit]]:
    """Fetch the texts of all results at once."""
    if not results:
        return []
    every = np.unique(np.concatenate([found.ranked.positions for found in results]))
    rows = dict(zip(every.tolist(), snapshot.take(every, HIT_COLUMNS).to_pylist(), strict=True))
    hits: list[list[Hit]] = []
    for found in results:
        ranks = ranks_of(found.lists, found.ranked.positions)
        places = zip(found.ranked.positions.tolist(), found.ranked.scores.tolist(), ranks, strict=True)
        hits.append(
            [
                Hit(chunk_of(rows[p]), score, rows[p]["title"], rows[p]["path"], metadata_of(rows[p]), rank)
                for p, score, rank in places
            ]
        )
    return hits


def _check(queries: Sequence[str], mode: str, k: int) -> None:
    if mode not in MODES:
        raise QueryError(f"unknown mode {mode!r}: choose from {', '.join(MODES)}")
    if not 1 <= k <= MAX_RESULTS:
        raise QueryError(f"k is {k}: ask for 1 to {MAX_RESULTS:,} results")
    if any(not query.strip() for query in queries):
        raise QueryError("the query is empty: say what to look for")
