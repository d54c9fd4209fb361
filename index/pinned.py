"""One version of the store's table, and what is asked of it; each question one call of LanceDB's asynchronous side.

LanceDB's synchronous side hands every step of a query, and every fragment of its answer, from one thread to another
and back: on 20,000 passages behind 100 small commits a scan took 47 ms that takes 17 this way.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import lancedb
import numpy as np
import pyarrow as pa
from lancedb.background_loop import LOOP
from lancedb.query import MatchQuery
from lancedb.table import AsyncTable
from numpy.typing import NDArray

from .filters import quoted

T = TypeVar("T")


@dataclass(frozen=True)
class PinnedTable:
    """One version, whatever is committed meanwhile. Threads may share it.

    Attributes:
        table: LanceDB's handle.
        version: Lance's number of the version.
    """

    table: AsyncTable
    version: int

    def schema(self) -> pa.Schema:
        """What its columns are."""
        return _run(self.table.schema())

    def indexes(self) -> dict[str, str]:
        """What Lance calls the index over each column that has one."""
        return {index.columns[0]: index.index_type for index in _run(self.table.list_indices())}

    def scan(self, columns: Sequence[str], where: str | None = None, limit: int | None = None) -> pa.Table:
        """Columns of all rows, or of some that a condition leaves, with `_rowid`, in any order."""
        return _run(self._query(columns, where, limit).to_arrow())

    def last(self, columns: Sequence[str], begin: int, limit: int) -> pa.Table:
        """Columns of at most `limit` rows from the `begin`-th on in the order of row ids, with `_rowid`."""
        return _run(self._query(columns, None, limit).offset(begin).to_arrow())

    def batches(self, columns: Sequence[str]) -> Generator[pa.RecordBatch]:
        """Columns of all rows, some at a time, with `_rowid`, in any order."""
        reader = _run(self._query(columns, None, None).to_batches())
        while (batch := _run(_next(reader))) is not None:
            yield batch

    def take(self, row_ids: NDArray[np.uint64], columns: Sequence[str]) -> pa.Table:
        """Columns of rows by id, with `_rowid`, by rising id; rows that are not there are left out."""
        found = _run(self.table.take_row_ids(row_ids.tolist()).select(list(columns)).with_row_id().to_arrow())
        return by_row_id(found)

    def full_text(self, query: str, limit: int, where: str | None) -> pa.Table:
        """`_rowid` and `_score` of the best rows for some words."""
        # The stub forgets that a query's other fields have defaults.
        search = self.table.query().nearest_to_text(cast(Any, MatchQuery)(query, "words"))
        if where is not None:
            search = search.where(where)
        return _run(search.with_row_id().select(["_rowid", "_score"]).limit(limit).to_arrow())

    def nearest(
        self, query: NDArray[np.float32], limit: int, where: str | None, probes: int, *, exact: bool
    ) -> pa.Table:
        """`_rowid` of rows near a (D,) query by Lance's own vector index, or by its scan of all of them."""
        search: Any = self.table.query().nearest_to(query).column("vector").distance_type("cosine")
        search = search.bypass_vector_index() if exact else search.nprobes(probes)
        if where is not None:
            search = search.where(where)
        return _run(search.with_row_id().select(["_rowid", "_distance"]).limit(limit).to_arrow())

    def unreadable(self) -> list[str]:
        """Columns whose index cannot be read. Lance believes its manifest, and misses files only as it reads them."""
        width = self.schema().field("vector").type.list_size
        held = self.scan(["doc_id"], None, 1)["doc_id"].to_pylist() or [""]
        reads: dict[str, Callable[[], object]] = {
            "words": lambda: self.full_text("a", 1, None),
            "doc_id": lambda: self.scan([], f"doc_id = {quoted(held[0])}", 1),
            "vector": lambda: self.nearest(np.ones(width, np.float32), 1, None, 1, exact=False),
        }
        indexed = self.indexes()
        return [column for column, read in reads.items() if column in indexed and _fails(read)]

    def _query(self, columns: Sequence[str], where: str | None, limit: int | None) -> Any:
        search: Any = self.table.query().with_row_id().select(["_rowid", *columns])
        if where is not None:
            search = search.where(where)
        return search if limit is None else search.limit(limit)


class Tables:
    """Opens the newest version of tables at one address."""

    def __init__(self, address: str) -> None:
        self._connection = _run(lancedb.connect_async(address))

    def newest(self, name: str) -> PinnedTable:
        """A table as it is now. A handle of a connection without a consistency interval looks for nothing newer."""
        return _run(self._open(name))

    def at(self, name: str, version: int) -> PinnedTable:
        """A table as it was at a version."""
        return _run(self._open(name, version))

    async def _open(self, name: str, version: int | None = None) -> PinnedTable:
        table = await self._connection.open_table(name)
        newest = await table.version()
        if version is not None and version != newest:
            await table.checkout(version)
        return PinnedTable(table, version or newest)


def by_row_id(found: pa.Table) -> pa.Table:
    """Rows in the order of their `_rowid`."""
    ids = found["_rowid"].to_numpy()
    return found if (ids[1:] > ids[:-1]).all() else found.take(np.argsort(ids))


def _fails(read: Callable[[], object]) -> bool:
    try:
        read()
    except (RuntimeError, OSError, ValueError):
        return True
    return False


async def _next(reader: Any) -> pa.RecordBatch | None:
    return await anext(reader, None)


def _run(work: Coroutine[Any, Any, T]) -> T:
    """The result of some work on LanceDB's own event loop; any thread may wait for it."""
    return cast(T, LOOP.run(work))
