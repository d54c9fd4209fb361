"""Sparse search of one snapshot: sealed segments for the rows they were built from, exact postings for the rest.

The twin of `dense`. Rows that came after a build are exact postings, rows that went are tombstones, masked out of a
segment's answers. Postings stay in memory between snapshots, so a commit costs what it changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .dense import DEAD_ROWS, allowed_rows, has_repeats, places_of
from .postings import Postings, appended, exact_scores
from .seismic import Segment
from .snapshot import Snapshot
from .topk import EMPTY, Ranked, ranked

Block = Postings | Segment


@dataclass(frozen=True)
class SparseView:
    """What a search of one snapshot works on.

    Attributes:
        segments: sealed, if any are used.
        tail: exact postings of all other rows.
        places: for each block of `segments` and `tail`, the position of its rows in the snapshot, -1 for a tombstone.
    """

    snapshot: Snapshot
    segments: tuple[Segment, ...]
    tail: tuple[Postings, ...]
    places: tuple[NDArray[np.int64], ...]

    def search(
        self, queries: csr_array, k: int, mask: NDArray[np.bool_] | None = None, *, exact: bool = False
    ) -> list[Ranked]:
        """The k best rows of each query, those that share a term with it only.

        Args:
            queries: (Q, V) float32 CSR.
            k: how many at most.
            mask: (N,) rows that may be found, or None for all.
            exact: whether to search the sealed rows exactly, too.
        """
        allowed = [allowed_rows(places, mask) for places in self.places]
        found: list[Ranked] = []
        for begin, end in pairwise(np.asarray(queries.indptr).tolist()):
            terms = queries.indices[begin:end].astype(np.int32)
            weights = queries.data[begin:end].astype(np.float32)
            found.append(self._one(terms, weights, k, allowed, exact))
        return found

    def _one(
        self,
        terms: NDArray[np.int32],
        weights: NDArray[np.float32],
        k: int,
        allowed: list[NDArray[np.bool_] | None],
        exact: bool,
    ) -> Ranked:
        positions: list[NDArray[np.int64]] = []
        scores: list[NDArray[np.float32]] = []
        for block, places, mine in zip((*self.segments, *self.tail), self.places, allowed, strict=True):
            if not len(terms) or (mine is not None and not mine.any()):
                continue
            if isinstance(block, Segment):
                rows = block.candidates(terms, weights, k, mine, exact=exact)
            else:
                rows = block.candidates(terms, weights, k, mine)
            positions.append(places[rows])
            scores.append(exact_scores(block.rows, self.snapshot.layout.terms, rows, terms, weights))
        if not positions:
            return EMPTY
        every = np.concatenate(positions)
        return ranked(every, np.concatenate(scores), self.snapshot.chunk_ids[every], k)


def view_of(snapshot: Snapshot, segments: tuple[Segment, ...], previous: SparseView | None) -> SparseView:
    """Prepare a snapshot for searching; postings in `previous` are not read again."""
    if previous is not None and previous.segments is segments and (following := _following(previous, snapshot)):
        return following
    sealed = np.concatenate([np.zeros(0, np.int64), *(segment.keys for segment in segments)])
    wanted = np.flatnonzero(~np.isin(snapshot.keys, sealed))
    tail = previous.tail if previous else ()
    held = np.concatenate([np.zeros(0, np.int64), *(block.keys for block in tail)])
    missing = wanted[~np.isin(snapshot.keys[wanted], held)]
    if 2 * (len(wanted) - len(missing)) < len(held) or has_repeats(sealed, held):
        tail, missing = (), wanted
    if len(missing):
        tail = appended(tail, snapshot.keys[missing], snapshot.sparse(missing))
    places = tuple(places_of(snapshot, block.keys) for block in (*segments, *tail))
    return SparseView(snapshot, segments, tail, places)


def _following(view: SparseView, snapshot: Snapshot) -> SparseView | None:
    """The view of a later snapshot by what came and went in between; None where that is not known."""
    moved = snapshot.moved(view.snapshot)
    if moved is None:
        return None
    count = len(view.segments)
    places = np.concatenate([np.zeros(0, np.int64), *(moved[places] for places in view.places[count:])])
    if 2 * np.count_nonzero(places < 0) > len(places) + DEAD_ROWS:
        return None
    fresh = np.arange(int(moved.max()) + 1, len(snapshot))
    tail = view.tail
    if len(fresh):
        tail = appended(tail, snapshot.keys[fresh], snapshot.sparse(fresh))
    ends = np.cumsum([len(block) for block in tail])
    own = np.split(np.concatenate([places, fresh]), ends[:-1]) if len(tail) else []
    return SparseView(snapshot, view.segments, tail, (*(moved[p] for p in view.places[:count]), *own))
