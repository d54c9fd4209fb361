"""Dense search of one snapshot: an accelerator for the rows it was built from, exact search for the rest.

Rows that came after the build are the exact tail; rows that went are tombstones, masked out of the accelerator's
answers. Without an accelerator every row is tail. Vectors stay in memory between snapshots, keyed by `key`, so a
commit costs what it changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .accelerator import Accelerator
from .pool import VectorPool
from .snapshot import Snapshot
from .topk import Ranked, candidates, exact_scores, normalize, ranked

# Half of the vectors in memory may be of rows that went, and so many more.
DEAD_ROWS = 1_000


@dataclass(frozen=True)
class DenseView:
    """What a search of one snapshot works on.

    Attributes:
        sealed: the accelerator, if one is used.
        sealed_positions: (A,) position of each accelerated row in the snapshot, -1 for a tombstone.
        pool_positions: (M,) the same for the pool.
    """

    snapshot: Snapshot
    pool: VectorPool
    pool_positions: NDArray[np.int64]
    sealed: Accelerator | None
    sealed_positions: NDArray[np.int64]

    # Found once: looking through a million rows takes longer than a search.
    @cached_property
    def _living_pool(self) -> NDArray[np.bool_] | None:
        return allowed_rows(self.pool_positions, None)

    @cached_property
    def _living_sealed(self) -> NDArray[np.bool_] | None:
        return allowed_rows(self.sealed_positions, None)

    @cached_property
    def _slots(self) -> NDArray[np.int64]:
        """(N,) the accelerated row at each position, -1 where there is none."""
        slots = np.full(len(self.snapshot), -1, np.int64)
        living = np.flatnonzero(self.sealed_positions >= 0)
        slots[self.sealed_positions[living]] = living
        return slots

    def sealed_rows(self, positions: NDArray[np.int64]) -> list[dict[str, Any] | None]:
        """What a search shows of the rows at some positions, None where the accelerator does not have it."""
        if self.sealed is None or self.sealed.passages is None:
            return [None] * len(positions)
        slots = self._slots[positions]
        held = iter(self.sealed.passages.take(slots[slots >= 0].tolist()))
        return [next(held) if slot >= 0 else None for slot in slots.tolist()]

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        mask: NDArray[np.bool_] | None = None,
        *,
        exact: bool = False,
        where: str | None = None,
    ) -> list[Ranked]:
        """The k best rows of each query.

        Args:
            queries: (Q, D) unit rows.
            k: how many at most.
            mask: (N,) rows that may be found, or None for all.
            exact: whether to search the accelerated rows exactly, too.
            where: the mask as SQL, for a view that leaves filtering to Lance.
        """
        del where
        pooled = self._living_pool if mask is None else allowed_rows(self.pool_positions, mask)
        tails = self.pool.candidates(queries, k, pooled)
        sealed = self._sealed_candidates(queries, k, mask, exact)
        found: list[Ranked] = []
        for row, tail in enumerate(tails):
            positions, vectors = self.pool_positions[tail], self.pool.matrix[tail]
            if self.sealed is not None:
                slots = sealed[row]
                positions = np.concatenate([positions, self.sealed_positions[slots]])
                vectors = np.concatenate([vectors, self.sealed.vectors[slots]])
            scores = exact_scores(vectors, queries[row])
            found.append(ranked(positions, scores, self.snapshot.chunk_ids[positions], k))
        return found

    def _sealed_candidates(
        self, queries: NDArray[np.float32], k: int, mask: NDArray[np.bool_] | None, exact: bool
    ) -> list[NDArray[np.int64]]:
        if self.sealed is None:
            return []
        allowed = self._living_sealed if mask is None else allowed_rows(self.sealed_positions, mask)
        if exact or (allowed is not None and self.sealed.exact_is_better(k, int(allowed.sum()))):
            return list(candidates(self.sealed.vectors, queries, k, allowed))
        return self.sealed.search(queries, k, allowed)


def view_of(snapshot: Snapshot, sealed: Accelerator | None, previous: DenseView | None) -> DenseView:
    """Prepare a snapshot for searching; vectors in `previous` are not read again."""
    if previous is not None and previous.sealed is sealed and (following := _following(previous, snapshot)):
        return following
    dimension = snapshot.layout.width
    sealed_keys = np.zeros(0, np.int64) if sealed is None else sealed.keys
    pool = VectorPool.empty(dimension) if previous is None else previous.pool
    if has_repeats(sealed_keys, pool.keys):
        pool = VectorPool.empty(dimension)
    wanted = np.flatnonzero(~np.isin(snapshot.keys, sealed_keys))
    missing = wanted[~np.isin(snapshot.keys[wanted], pool.keys)]
    if 2 * (len(wanted) - len(missing)) < len(pool):
        pool, missing = VectorPool.empty(dimension), wanted
    pool = _extended(pool, snapshot, missing)
    return DenseView(snapshot, pool, places_of(snapshot, pool.keys), sealed, places_of(snapshot, sealed_keys))


def _following(view: DenseView, snapshot: Snapshot) -> DenseView | None:
    """The view of a later snapshot by what came and went in between; None where that is not known."""
    moved = snapshot.moved(view.snapshot)
    if moved is None:
        return None
    pooled = moved[view.pool_positions]
    if 2 * np.count_nonzero(pooled < 0) > len(pooled) + DEAD_ROWS:
        return None
    fresh = np.arange(int(moved.max()) + 1, len(snapshot))
    pool = _extended(view.pool, snapshot, fresh)
    return DenseView(snapshot, pool, np.concatenate([pooled, fresh]), view.sealed, moved[view.sealed_positions])


def _extended(pool: VectorPool, snapshot: Snapshot, positions: NDArray[np.int64]) -> VectorPool:
    if not len(positions):
        return pool
    vectors = snapshot.vectors(positions)
    normalize(vectors)
    return pool.extended(snapshot.keys[positions], vectors)


def has_repeats(*keys: NDArray[np.int64]) -> bool:
    """Whether a row is held twice: one that was changed and changed back is taken for a new one at first."""
    every = np.concatenate(keys)
    return len(np.unique(every)) < len(every)


def places_of(snapshot: Snapshot, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The position in the snapshot of each key, -1 where it is not there."""
    if not len(snapshot):
        return np.full(len(keys), -1, np.int64)
    order = snapshot.by_key
    places = order[np.minimum(np.searchsorted(snapshot.keys, keys, sorter=order), len(snapshot) - 1)]
    return np.where(snapshot.keys[places] == keys, places, -1)


def allowed_rows(positions: NDArray[np.int64], mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
    """Which rows live and pass the mask; None where all do."""
    allowed = positions >= 0
    if mask is not None and len(mask):
        allowed &= mask[positions]
    return None if allowed.all() else allowed
