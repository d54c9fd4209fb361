"""LanceDB's own vector index: dense search of a store too big for this machine's memory, or in a bucket.

It lives in the table: a commit makes it visible, deletes and new rows are Lance's to see to, a reader fetches the
partitions it probes and nothing else. Its quantised scores choose candidates; those are scored again from the stored
vectors, as everywhere here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import lancedb.index
import numpy as np
from lancedb.table import Table
from numpy.typing import NDArray

from .snapshot import Snapshot
from .topk import Ranked, exact_scores, normalize, ranked

INDEX = "vector_idx"
# What LanceDB calls each kind.
_CONFIGS: Mapping[str, str] = {"lance-hnsw": "IvfHnswSq", "lance-rq": "IvfRq", "lance-pq": "IvfPq"}
KINDS = tuple(_CONFIGS)
# Candidates scored again for each result wanted. A graph's search width follows from it: with 3, no number of probes
# found 95 % of real questions' 10 best among 100,000 passages.
OVERSAMPLE = 20
PROBES = 32
# Rows that a filter leaves, if so few, are all scored: fewer reads than probing for them.
EXACT_ROWS = 2_000
BUILD_TIME = timedelta(hours=24)


def build(table: Table, kind: str) -> None:
    """Make the index of this kind over all rows, in place of another; one commit."""
    config: Any = getattr(lancedb.index, _CONFIGS[kind])
    table.create_index(
        "vector", config=config(distance_type="cosine"), name=INDEX, replace=True, wait_timeout=BUILD_TIME
    )


def drop(table: Table) -> None:
    """Remove the index, if there is one."""
    if any(index.columns == ["vector"] for index in table.list_indices()):
        table.drop_index(INDEX)


def kind_of(snapshot: Snapshot) -> str:
    """Which of `KINDS` a snapshot has; empty for none."""
    return kind_called(snapshot.vector_index)


def kind_called(name: str) -> str:
    """Which of `KINDS` Lance calls so; empty for none."""
    made = name.lower().replace("_", "")
    return next((kind for kind, config in _CONFIGS.items() if config.lower() == made), "")


def status(snapshot: Snapshot, table: Table) -> Mapping[str, Any]:
    """How dense search works through the index, and what it covers; `table` is of the snapshot's version or later."""
    stats = table.index_stats(INDEX)
    covered = stats.num_indexed_rows if stats is not None else 0
    return {
        "search": kind_of(snapshot),
        "reason": f"Lance's own index over {covered:,} chunks",
        "covered": covered,
        "exact_tail": max(0, len(snapshot) - covered),
        "tombstones": 0,  # Lance counts only what is still there
    }


@dataclass(frozen=True)
class LanceView:
    """Dense search of one snapshot through the table's own index; the twin of `dense.DenseView`."""

    snapshot: Snapshot

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        mask: NDArray[np.bool_] | None = None,
        *,
        exact: bool = False,
        where: str | None = None,
    ) -> list[Ranked]:
        """The k best rows of each query; arguments as of `DenseView.search`."""
        few = np.flatnonzero(mask) if mask is not None and int(mask.sum()) <= EXACT_ROWS else None
        found: list[Ranked] = []
        for query in queries:
            positions = few if few is not None else self._candidates(query, k, where, exact=exact)
            vectors = self.snapshot.vectors(positions)
            normalize(vectors)
            names = self.snapshot.chunk_ids[positions]
            found.append(ranked(positions, exact_scores(vectors, query), names, k))
        return found

    def _candidates(self, query: NDArray[np.float32], k: int, where: str | None, *, exact: bool) -> NDArray[np.int64]:
        count = min(len(self.snapshot), k if exact else k * OVERSAMPLE)
        if not count:
            return np.zeros(0, np.int64)
        return self.snapshot.nearest(query, count, where, PROBES, exact=exact)
