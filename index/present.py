"""Which documents a table holds, for its one writer: asked of the table, or of their hashes where many are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from lancedb.table import Table

from .filters import quoted
from .snapshot import Snapshot

ASK_IDS = 10_000
# So many batches are looked up in the table before the ids of all its rows are read once.
ASK_BATCHES = 8


class Present:
    """The documents of one table. Only who holds the writer's lock may ask."""

    def __init__(self, table: Table, snapshot: Callable[[], Snapshot]) -> None:
        self._table, self._snapshot = table, snapshot
        self._asked = 0
        self._held: set[int] = set()
        self._version = -1

    def among(self, doc_ids: Sequence[str]) -> list[str]:
        """Those of `doc_ids` that are in the newest version."""
        found: list[str] = []
        for start in range(0, len(doc_ids), ASK_IDS):
            where = f"ordinal = 0 AND {any_of(doc_ids[start : start + ASK_IDS])}"
            rows = self._table.search().where(where).select(["doc_id"]).limit(None).to_arrow()
            found += rows["doc_id"].to_pylist()
        return found

    def perhaps_among(self, doc_ids: Sequence[str]) -> list[str]:
        """Those of `doc_ids` that are in the newest version, and perhaps some that are not.

        The table reads the ids of all rows that it has no index on yet: 8 of the 26 ms that replacing a document took
        behind 100 small commits on 20,000 passages. `committed` keeps what is held here right from batch to batch.
        """
        if self._version != self._table.version:
            self._asked += 1
            if self._asked <= ASK_BATCHES:
                return self.among(doc_ids)
            self._held = set(self._snapshot().rows.documents.tolist())
        return [doc_id for doc_id in doc_ids if hash(doc_id) in self._held]

    def committed(self, doc_ids: Iterable[str]) -> None:
        """Note that these were written; whatever anybody else commits makes the table be asked again."""
        if self._asked > ASK_BATCHES:
            self._held.update(map(hash, doc_ids))
            self._version = self._table.version


def any_of(doc_ids: Sequence[str]) -> str:
    """Lance's SQL for rows of these documents."""
    return f"doc_id IN ({', '.join(map(quoted, doc_ids))})"
