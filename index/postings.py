"""Sparse vectors by term: the exact inner products of a query with every row, from its own terms' postings only.

This is the ground truth of sparse search. It touches what the query's terms touch and nothing else, which on learned
sparse vectors is several times less work than a CSR matrix product.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .layout import columns

# A float32 sum of a few hundred products is right to far better than this share of it.
MARGIN = 1e-4
# Blocks are joined until each is more than this many times as long as the next: few blocks, and every row is moved
# a handful of times only.
BLOCK_RATIO = 4
# Rows of a block, and the score of each.
Scored = tuple[NDArray[np.int64], NDArray[np.float32]]
NOTHING: Scored = (np.zeros(0, np.int64), np.zeros(0, np.float32))
_THREAD = threading.local()


@dataclass(frozen=True)
class Postings:
    """n sparse rows, by row and by term.

    Attributes:
        keys: (n,) int64, see `schema.table_schema`.
        rows: (n, V) float32 CSR, terms rising.
        starts: (V + 1,) where each term's postings begin.
        members: (nnz,) int32 rows by term.
        weights: (nnz,) float32, theirs.
    """

    keys: NDArray[np.int64]
    rows: csr_array
    starts: NDArray[np.int64]
    members: NDArray[np.int32]
    weights: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.keys)

    @classmethod
    def of(cls, keys: NDArray[np.int64], rows: csr_array) -> Postings:
        """Sort rows by term."""
        by_term = rows.tocsc()
        starts, members = np.asarray(by_term.indptr, np.int64), np.asarray(by_term.indices, np.int32)
        return cls(keys, rows, starts, members, np.asarray(by_term.data, np.float32))

    def search(
        self,
        terms: NDArray[np.int32],
        weights: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None,
        *,
        exact: bool = True,
    ) -> Scored:
        """The rows that may be among the k best of one query, all with a score above zero, and their scores.

        Args:
            terms: (t,) of the query, each once.
            weights: (t,) float32, theirs.
            k: how many are wanted.
            allowed: (n,) rows that may be found, or None for all.
            exact: for a segment, see there; postings always are.
        """
        del exact
        sums = np.zeros(len(self), np.float32)
        for term, weight in zip(terms.tolist(), weights.tolist(), strict=True):
            begin, end = self.starts[term], self.starts[term + 1]
            sums[self.members[begin:end]] += np.float32(weight) * self.weights[begin:end]
        found = best_of(sums, k, allowed)
        return found, exact_scores(self.rows, found, terms, weights)


def best_of(sums: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """Positions of the k highest sums above zero, and of all that rounding may have put just below them."""
    if allowed is not None:
        sums = np.where(allowed, sums, np.float32(0))
    found = np.flatnonzero(sums > 0)
    if len(found) <= k:
        return found
    floor = np.partition(sums[found], len(found) - k)[len(found) - k]
    return found[sums[found] >= floor * (1 - MARGIN)]


def exact_scores(
    rows: csr_array, places: NDArray[np.int64], terms: NDArray[np.int32], weights: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Inner products of chosen rows with one query, in float64 and in the order of terms: the same wherever a row is.

    Args:
        rows: (n, V) CSR.
        places: (c,) rows wanted, none of them empty.
        terms: (t,) of the query, each once.
        weights: (t,) float32.
    """
    if not len(places):
        return np.zeros(0, np.float32)
    # `take` and sums in place: a tail is searched with every query.
    begins = rows.indptr.take(places).astype(np.int64)
    lengths = rows.indptr.take(places + 1) - begins
    ends = lengths.cumsum()
    starts = ends - lengths
    members = np.arange(ends[-1])
    members += (begins - starts).repeat(lengths)
    query = _scratch(columns(rows))
    query[terms] = weights
    products = query.take(rows.indices.take(members))
    products *= rows.data.take(members)
    query[terms] = 0
    return np.add.reduceat(products, starts).astype(np.float32)


def _scratch(width: int) -> NDArray[np.float64]:
    """Zeros of this thread's own, to be left as zeros: making them anew takes longer than a dozen scores do."""
    held = getattr(_THREAD, "zeros", None)
    if held is None or len(held) < width:
        held = _THREAD.zeros = np.zeros(width)
    return held


def appended(blocks: tuple[Postings, ...], keys: NDArray[np.int64], rows: csr_array) -> tuple[Postings, ...]:
    """Blocks with more rows behind them; short blocks at the end are joined, so that there are never many."""
    from scipy.sparse import vstack

    while blocks and len(blocks[-1]) < BLOCK_RATIO * len(keys):
        keys = np.concatenate([blocks[-1].keys, keys])
        rows = csr_array(vstack([blocks[-1].rows, rows], format="csr"))
        blocks = blocks[:-1]
    return (*blocks, Postings.of(keys, rows))
