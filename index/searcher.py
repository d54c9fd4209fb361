"""`Searcher`: a question in, ranked chunks out; by one representation or several, fused, filtered and refined."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from ..embedder.embeddings import Embeddings
from .dense import DenseView
from .documents import Hit
from .encoder import Encoder
from .errors import QueryError
from .fusion import DEFAULT_FUSION, Fusion, ranks_of
from .lance_ann import LanceView
from .layout import columns
from .lexical import search_text
from .modes import MODES, needed, parse_mode
from .opening import model_name
from .refine import Refine, grouped, reranked, spread
from .schema import tidy
from .snapshot import Snapshot, chunk_of, metadata_of
from .store import Store
from .topk import Ranked, normalized
from .views import Views

__all__ = ["FUSION_DEPTH", "MAX_RESULTS", "MODES", "Query", "Searcher"]
MAX_RESULTS = 10_000
# How deep each list is read before fusion: 100, or twice the results wanted if that is more.
FUSION_DEPTH = 100
NO_REFINE = Refine()
Rows = NDArray[np.float32] | csr_array


@dataclass(frozen=True)
class Query:
    """How to search, the same for every query of a call; see `Searcher.search`."""

    modes: tuple[str, ...]
    k: int
    filter: str | None
    exact: bool
    fusion: Fusion
    router_weight: float = 1.0


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

    Attributes:
        fusion: how lists are merged where a call does not say.
        router_weight: alpha of mode `moee`, cos(dense) + alpha cos(router).
    """

    def __init__(
        self, store: Store, encoder: Encoder | None, *, fusion: Fusion | None = None, router_weight: float = 1.0
    ) -> None:
        """Search `store`; without its encoder by words only, or with vectors that the caller has made.

        Raises:
            StoreMismatch: the encoder is not the store's.
            QueryError: a weight that is negative or no number.
        """
        if encoder is not None:
            store.meta.require_fingerprint(encoder.fingerprint, model_name(encoder), store.place)
        self.store = store
        self.fusion = fusion or DEFAULT_FUSION
        self.router_weight = _checked_weight(router_weight)
        self._encoder = encoder
        self.views = Views(store)

    def search(
        self,
        query: str,
        *,
        mode: str = "hybrid",
        k: int = 10,
        filter: str | None = None,
        exact: bool = False,
        fusion: Fusion | None = None,
        router_weight: float | None = None,
        refine: Refine = NO_REFINE,
    ) -> list[Hit]:
        """The k best chunks for a query.

        Args:
            query: what to look for, in plain words.
            mode: `dense` (cosine), `sparse` (inner product of term weights), `lexical` (BM25), `router` and `moee`
                (cosines of router vectors, alone or added to the dense ones), several with `+` between, or `hybrid`
                (all that the store holds); several lists are fused.
            k: how many at most, 1 to 10,000.
            filter: conditions on fields, see `filters`; chunks that fail them are not searched.
            exact: search every vector even where an accelerator exists.
            fusion: how lists are merged; None for the searcher's.
            router_weight: alpha of mode `moee`; None for the searcher's.
            refine: what is done to the hits afterwards.

        Returns:
            Hits by falling score, equal scores by chunk id; in another order only where `refine` asks for diversity.

        Raises:
            QueryError: an empty query, an unknown mode, an impossible k or weight.
            FilterError: the filter makes no sense.
        """
        return self.search_many(
            [query],
            mode=mode,
            k=k,
            filter=filter,
            exact=exact,
            fusion=fusion,
            router_weight=router_weight,
            refine=refine,
        )[0]

    def search_many(
        self,
        queries: Sequence[str],
        *,
        mode: str = "hybrid",
        k: int = 10,
        filter: str | None = None,
        exact: bool = False,
        fusion: Fusion | None = None,
        router_weight: float | None = None,
        refine: Refine = NO_REFINE,
        vectors: NDArray[np.float32] | Embeddings | None = None,
    ) -> list[list[Hit]]:
        """`search` for many queries, encoded together; results in the order of the queries.

        `vectors` are the queries' own where the caller has encoded them already: (Q, D) dense ones, or `Embeddings`.
        What the mode needs besides (`modes.needed`) is encoded here.
        """
        _check(queries, k)
        modes = parse_mode(mode, self.store.meta.layout)
        given = self._representations(queries, modes, vectors)
        weight = self.router_weight if router_weight is None else _checked_weight(router_weight)
        how = Query(modes, k, filter, exact, fusion or self.fusion, weight)
        return self._search(queries, given, how, refine)

    def search_vectors(
        self, vectors: NDArray[np.float32], *, k: int = 10, filter: str | None = None, exact: bool = False
    ) -> list[list[Hit]]:
        """Dense search for (Q, D) query vectors, which need not have unit length.

        Raises:
            QueryError: vectors of another width, or with NaN or infinity.
        """
        _check((), k)
        self._check_dense(vectors)
        given: dict[str, Rows] = {"dense": normalized(vectors)}
        how = Query(("dense",), k, filter, exact, self.fusion)
        return self._search([""] * len(vectors), given, how, NO_REFINE)

    def ranked(self, snapshot: Snapshot, queries: Sequence[str], given: dict[str, Rows], how: Query) -> list[Found]:
        """Search one snapshot and fetch no texts; `given` holds the queries' representations."""
        depth = max(FUSION_DEPTH, 2 * how.k) if len(how.modes) > 1 else how.k
        mask = snapshot.mask(how.filter) if how.filter is not None and how.modes != ("lexical",) else None
        where = snapshot.filter_sql(how.filter) if how.filter is not None else None
        lists: dict[str, list[Ranked]] = {}
        for mode in how.modes:
            if mode == "lexical":
                lists[mode] = [search_text(snapshot, query, depth, where) for query in queries]
            elif mode == "sparse":
                sparse = given["sparse"]
                assert isinstance(sparse, csr_array), "checked where it was taken"
                lists[mode] = self.views.sparse(snapshot).search(sparse, depth, mask, exact=how.exact)
            else:
                asked, scale = self._dense_query(mode, given, how.router_weight)
                found = self.views.dense(snapshot).search(asked, depth, mask, exact=how.exact, where=where)
                lists[mode] = [Ranked(one.positions, one.scores * np.float32(scale)) for one in found]
        rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        if len(how.modes) == 1:
            return [Found(row[how.modes[0]], row) for row in rows]
        return [Found(how.fusion.fuse(row, snapshot.chunk_ids, how.k), row) for row in rows]

    def representations(
        self, queries: Sequence[str], mode: str, vectors: NDArray[np.float32] | Embeddings | None = None
    ) -> dict[str, Rows]:
        """What `ranked` needs of the queries in a mode; raises as `search` does."""
        return self._representations(queries, parse_mode(mode, self.store.meta.layout), vectors)

    def view(self, snapshot: Snapshot) -> DenseView | LanceView:
        """The dense side of a snapshot."""
        return self.views.dense(snapshot)

    @property
    def dense_reason(self) -> str:
        """Why a dense accelerator that is there is not used; empty otherwise."""
        return self.views.dense_generation.reason

    @property
    def sparse_reason(self) -> str:
        """Why a sparse accelerator that is there is not used; empty otherwise."""
        return self.views.sparse_generation.reason

    def _search(self, queries: Sequence[str], given: dict[str, Rows], how: Query, refine: Refine) -> list[list[Hit]]:
        if not queries:
            return []

        def run(snapshot: Snapshot) -> list[list[Hit]]:
            k, fetch = how.k, refine.fetch(how.k)
            while True:
                wide = replace(how, k=min(fetch, MAX_RESULTS))
                found = self._hits(snapshot, self.ranked(snapshot, queries, given, wide))
                refined = [self._refined(snapshot, *one, k, refine) for one in zip(queries, found, strict=True)]
                short = any(len(r) < k and len(f) >= wide.k for r, f in zip(refined, found, strict=True))
                if not short or wide.k == MAX_RESULTS:
                    return refined
                fetch *= 4  # several chunks of one document took the places of others

        return self.store.read(run)

    def _hits(self, snapshot: Snapshot, results: Sequence[Found]) -> list[list[Hit]]:
        """Fetch the texts of all results at once."""
        if not results:
            return []
        every = np.unique(np.concatenate([found.ranked.positions for found in results]))
        rows = dict(zip(every.tolist(), self.views.shown(snapshot, every), strict=True))
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

    def _refined(self, snapshot: Snapshot, query: str, hits: list[Hit], k: int, refine: Refine) -> list[Hit]:
        if refine.reranker is not None:
            hits = reranked(query, hits, refine.reranker)
        if refine.per_document is not None:
            hits = grouped(hits, refine.per_document)
        if refine.diversity is not None:
            hits = spread(hits, self._unit_vectors(snapshot, hits), refine.diversity, k)
        return hits[:k]

    def _unit_vectors(self, snapshot: Snapshot, hits: Sequence[Hit]) -> NDArray[np.float32]:
        places = snapshot.places_of_chunks([hit.chunk for hit in hits])
        return normalized(snapshot.vectors(places))

    def _representations(
        self, queries: Sequence[str], modes: tuple[str, ...], vectors: NDArray[np.float32] | Embeddings | None
    ) -> dict[str, Rows]:
        """The queries' dense and router rows at unit length and sparse rows, as far as the modes need them."""
        wanted = needed(modes)
        if not wanted or not queries:
            return {}
        held = vectors if isinstance(vectors, Embeddings) else None
        rows: dict[str, Any] = {name: getattr(held, name) for name in wanted} if held is not None else {}
        if isinstance(vectors, np.ndarray):
            rows["dense"] = vectors
        if lacking := [name for name in wanted if rows.get(name) is None]:
            if self._encoder is None:
                raise QueryError(f"mode {'+'.join(modes)} needs the model that made the store: open it with one")
            made = self._encoder.encode(queries, kind="query", outputs=lacking)
            rows |= {name: getattr(made, name) for name in lacking}
        given: dict[str, Rows] = {}
        for name in wanted:
            if rows[name].shape[0] != len(queries):
                raise QueryError(f"{len(queries)} queries with {rows[name].shape[0]} {name} vectors: give one each")
            given[name] = self._checked(name, rows[name])
        return given

    def _checked(self, name: str, rows: Rows) -> Rows:
        layout = self.store.meta.layout
        if isinstance(rows, csr_array):
            if columns(rows) != layout.terms:
                raise QueryError(f"query vectors of {columns(rows)} terms, this store's have {layout.terms}")
            if not np.isfinite(np.asarray(rows.data)).all():
                raise QueryError("a query vector holds NaN or infinity: the model failed on that query")
            return tidy(rows)
        if name == "dense":
            self._check_dense(rows)
        return normalized(rows)

    def _check_dense(self, vectors: NDArray[np.float32]) -> None:
        width = self.store.meta.dimension
        if vectors.ndim != 2 or vectors.shape[1] != width:
            raise QueryError(f"query vectors of shape {vectors.shape}, this store's have {width} dimensions")
        if not np.isfinite(vectors).all():
            raise QueryError("a query vector holds NaN or infinity: the model failed on that query")

    def _dense_query(
        self, mode: str, given: dict[str, Rows], router_weight: float
    ) -> tuple[NDArray[np.float32], float]:
        """Unit query rows for the searched vectors, and what brings their scores to the mode's scale."""
        layout = self.store.meta.layout
        if not layout.router:
            return np.asarray(given["dense"]), 1.0
        # Stored rows are two unit parts, so of length sqrt 2 before they were brought to unit length.
        shares = {"dense": (1.0, 0.0), "router": (0.0, 1.0), "moee": (1.0, router_weight)}[mode]
        some: Any = next(iter(given.values()))
        parts: list[NDArray[np.float32]] = []
        for name, share, width in zip(("dense", "router"), shares, (layout.dimension, layout.router), strict=True):
            rows = given[name] if share else np.zeros((some.shape[0], width), np.float32)
            parts.append(np.asarray(rows) * np.float32(share))
        return normalized(np.hstack(parts)), float(np.sqrt(2) * np.hypot(*shares))


def _check(queries: Sequence[str], k: int) -> None:
    if not 1 <= k <= MAX_RESULTS:
        raise QueryError(f"k is {k}: ask for 1 to {MAX_RESULTS:,} results")
    if any(not query.strip() for query in queries):
        raise QueryError("the query is empty: say what to look for")


def _checked_weight(router_weight: float) -> float:
    if not 0 <= router_weight < math.inf:
        raise QueryError(f"router_weight is {router_weight}: give a number that is not negative")
    return router_weight
