"""Sparse search of one snapshot: sealed segments for the rows they were built from, exact postings for the rest.

The twin of `dense`. Rows that came after a build are exact postings, rows that went are tombstones, masked out of a
segment's answers. Postings stay in memory between snapshots, so a commit costs what it changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .dense import DEAD_ROWS, allowed_rows, has_repeats, places_of
from .postings import Postings, appended, exact_scores
from .seismic import Segment
from .snapshot import Snapshot
from .topk import EMPTY, Ranked, ranked

Block = Postings | Segment
# Sums of the same few hundred products, one of them in float32, differ by less than this share.
NEARLY = 2e-6


class Part(NamedTuple):
    """A block as one search sees it.

    Attributes:
        places: (n,) the position of its rows in the snapshot, -1 for a tombstone.
        allowed: (n,) which of them may be found, or None for all.
    """

    block: Block
    places: NDArray[np.int64]
    allowed: NDArray[np.bool_] | None


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
        parts = self._living if mask is None else self._parts(mask)
        found: list[Ranked] = []
        for begin, end in pairwise(np.asarray(queries.indptr).tolist()):
            terms = queries.indices[begin:end].astype(np.int32)
            weights = queries.data[begin:end].astype(np.float32)
            found.append(self._one(terms, weights, k, parts, exact) if len(terms) and parts else EMPTY)
        return found

    # Found once: looking through a million rows takes as long as a search.
    @cached_property
    def _living(self) -> list[Part]:
        return self._parts(None)

    def _parts(self, mask: NDArray[np.bool_] | None) -> list[Part]:
        """Every block in which a row may be found."""
        blocks = zip((*self.segments, *self.tail), self.places, strict=True)
        parts = [Part(block, places, allowed_rows(places, mask)) for block, places in blocks]
        return [part for part in parts if part.allowed is None or part.allowed.any()]

    def _one(
        self, terms: NDArray[np.int32], weights: NDArray[np.float32], k: int, parts: list[Part], exact: bool
    ) -> Ranked:
        found = [part.block.search(terms, weights, k, part.allowed, exact=exact) for part in parts]
        places = [part.places.take(rows) for part, (rows, _) in zip(parts, found, strict=True)]
        if len(found) == 1:
            positions, scores = places[0], found[0][1]
        else:
            positions, scores = np.concatenate(places), np.concatenate([scores for _, scores in found])
            if self.segments and not exact:
                blocks = [(part.block, rows) for part, (rows, _) in zip(parts, found, strict=True)]
                _settle(scores, blocks, terms, weights)
        return ranked(positions, scores, self.snapshot.chunk_ids.take(positions), k)


def _settle(
    scores: NDArray[np.float32],
    found: list[tuple[Block, NDArray[np.int64]]],
    terms: NDArray[np.int32],
    weights: NDArray[np.float32],
) -> None:
    """Where rows of two blocks nearly tie, put exact scores in place of those found: equal rows then tie."""
    owners = np.repeat(np.arange(len(found)), [len(rows) for _, rows in found])
    order = np.argsort(-scores)
    falling, owned = scores[order], owners[order]
    close = falling[1:] >= falling[:-1] * (1 - NEARLY)
    if not (close & (owned[1:] != owned[:-1])).any():
        return
    near = np.zeros(len(scores), np.bool_)
    near[order[1:][close]] = near[order[:-1][close]] = True
    for number, (block, rows) in enumerate(found):
        own = owners == number
        scores[near & own] = exact_scores(block.rows, rows[near[own]], terms, weights)


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
