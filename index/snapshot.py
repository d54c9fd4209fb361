"""A `Snapshot`: one version of a store's table, and everything that is read from it.

A query reads from one snapshot only, so its vectors, texts and filters agree with each other whatever a writer does
meanwhile. Rows are addressed by position, 0 to N - 1, in the order of their Lance row ids; those that came by the
journal are behind all others, as they were committed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .documents import Chunk, Metadata
from .errors import FilterError, StoreDamaged, lance_errors
from .filters import metadata_sql, parse_filter
from .journal import Entry
from .layout import Layout
from .pinned import PinnedTable
from .rows import Rows, journal_rows, next_rows, read_rows
from .schema import chunk_id
from .topk import normalize

TAKE_ROWS = 8192
HIT_COLUMNS = ("doc_id", "ordinal", "start_char", "end_char", "text", "title", "path", "metadata")


class Snapshot:
    """The rows of one table version.

    Attributes:
        version: Lance's number of the version.
        layout: what its rows hold.
        rows: its N rows by position.
        vector_index: what Lance calls its own index over the vectors; empty where there is none.
        asked: whether a search needed Lance, as those by words and under filters do.
    """

    def __init__(
        self,
        rows: Rows,
        base: PinnedTable,
        open_table: Callable[[], PinnedTable],
        root: object,
        layout: Layout,
        vector_index: str,
    ) -> None:
        """Put the parts together; use `read` or `following`.

        Args:
            rows: the version's rows.
            base: a version that has all rows of which Lance's ids are known, this one or an older one.
            open_table: opens the version.
            root: what messages call the store.
            layout: what its rows hold.
            vector_index: see above.
        """
        self.rows, self.version, self.layout, self.vector_index = rows, rows.version, layout, vector_index
        self._base, self._open, self._root = base, open_table, root
        self.asked = False
        self._masks: dict[str, NDArray[np.bool_]] = {}

    @classmethod
    def read(
        cls,
        table: PinnedTable,
        root: object,
        layout: Layout,
        previous: Snapshot | None = None,
        *,
        follows: bool = False,
    ) -> Self:
        """Ask Lance which rows a version has.

        Args:
            table: the version.
            root: what messages call the store.
            layout: what its rows hold.
            previous: an older one; of a row that it has nothing but the key is read again.
            follows: whether since `previous` the table has not been taken back to an older version.
        """
        with lance_errors(root):
            known = previous.known[0] if previous is not None else None
            rows = next_rows(table, known, _kept_columns(layout)) if known is not None and follows else None
            if rows is None:
                rows = read_rows(table, known)
            # A single commit that brought rows made no index.
            if previous is not None and rows.version == previous.version + 1 and rows.came:
                vector_index = previous.vector_index
            else:
                vector_index = table.indexes().get("vector", "")
        return cls(rows, table, lambda: table, root, layout, vector_index)

    def following(self, entries: Sequence[Entry], version: int, open_table: Callable[[], PinnedTable]) -> Self | None:
        """The version that some commits behind this one made; None where they do not tell enough, see `journal_rows`.

        Lance is not asked before something is wanted that only it knows.
        """
        known, base = self.known
        rows = journal_rows(known, entries, version, _kept_columns(self.layout))
        if rows is None:
            return None
        # Such commits make no index.
        return type(self)(rows, base, open_table, self._root, self.layout, self.vector_index)

    @property
    def known(self) -> tuple[Rows, PinnedTable]:
        """The rows with all of Lance's names that have been asked for, and a version that has rows of those names."""
        if "ids" in vars(self):
            return replace(self.rows, ids=self.ids), self._table
        return self.rows, self._base

    @property
    def by_journal(self) -> bool:
        """Whether Lance was not asked which rows there are."""
        return self._base.version != self.version

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def keys(self) -> NDArray[np.int64]:
        """(N,) int64, see `schema.table_schema`."""
        return self.rows.keys

    @property
    def chunk_ids(self) -> NDArray[np.bytes_]:
        """(N,) bytes, 32 hex digits each."""
        return self.rows.chunk_ids

    def moved(self, older: Snapshot) -> NDArray[np.int64] | None:
        """(N + 1,) where each of the N rows of an older snapshot is now, -1 where it went, and -1 at the end.

        All other rows of this one came behind them. None where it is not known how the one became the other.
        """
        return self.rows.moved(older.version)

    @cached_property
    def ids(self) -> NDArray[np.uint64]:
        """(N,) uint64, what Lance calls each row."""
        known = self.rows.ids
        if len(known) == len(self):
            return known
        wanted = self.keys[len(known) :]
        with lance_errors(self._root):
            last = self._table.last(["key"], len(known), len(wanted) + 1)
        keys = last["key"].to_numpy()
        order = np.argsort(keys)
        places = order[np.minimum(np.searchsorted(keys, wanted, sorter=order), max(0, len(keys) - 1))]
        if len(keys) != len(wanted) or not np.array_equal(keys[places], wanted):
            raise StoreDamaged(f"the store at {self._root} and its journal tell of different rows: remove its recent/")
        return np.concatenate([known, last["_rowid"].to_numpy()[places]])

    @cached_property
    def _table(self) -> PinnedTable:
        with lance_errors(self._root):
            return self._open()

    @cached_property
    def by_key(self) -> NDArray[np.int64]:
        """(N,) positions by rising key."""
        return np.argsort(self.keys, kind="stable")

    @cached_property
    def _by_name(self) -> NDArray[np.int64]:
        return np.argsort(self.chunk_ids)

    def positions(self, row_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where rows with these Lance row ids are; every id must be of this version."""
        if (self.ids[1:] > self.ids[:-1]).all():
            return np.searchsorted(self.ids, row_ids)
        order = np.argsort(self.ids)
        return order[np.searchsorted(self.ids, row_ids, sorter=order)]

    def take(self, positions: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """The rows at `positions`, in that order, repeats included."""
        unique, inverse = np.unique(positions, return_inverse=True)
        parts = [self._take_unique(unique[i : i + TAKE_ROWS], columns) for i in range(0, len(unique), TAKE_ROWS)]
        if not parts:
            return self._take_unique(unique, columns)
        return pa.concat_tables(parts).take(inverse)

    def vectors(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors that are searched at `positions`: (len(positions), layout.width) float32, the caller's own.

        Dense ones as they were stored; with router vectors, both parts at unit length side by side, so that one inner
        product with (a q, b r) is the sum of their cosines weighted by a and b.
        """
        if np.array_equal(positions, np.arange(len(self))):
            return self._all_vectors()
        if 2 * len(positions) > len(self):
            return self._all_vectors()[positions]
        return self._searched(self.take(positions, _vector_columns(self.layout)))

    def places_of_chunks(self, chunks: Sequence[Chunk]) -> NDArray[np.int64]:
        """Positions of chunks that this snapshot holds."""
        names = np.array([chunk_id(chunk) for chunk in chunks], "S32")
        order = self._by_name
        return order[np.searchsorted(self.chunk_ids, names, sorter=order)]

    def sparse(self, positions: NDArray[np.int64]) -> csr_array:
        """The stored sparse vectors at `positions`: (len(positions), V) float32 CSR, terms rising in each row."""
        if len(positions) * 2 <= len(self):
            return _csr(self.take(positions, ["terms", "weights"]), self.layout.terms)
        rows = self.scan(["terms", "weights"])
        order = np.argsort(rows["_rowid"].to_numpy())
        return csr_array(_csr(rows, self.layout.terms)[order[positions]])

    def mask(self, source: str) -> NDArray[np.bool_]:
        """Which rows pass a filter: (N,) bool.

        Raises:
            FilterError: it cannot be parsed, or no document has a metadata field that it names.
        """
        self.asked = True
        if source not in self._masks:
            sql = self.filter_sql(source)
            found = self.scan([], sql)["_rowid"].to_numpy()
            mask = np.zeros(len(self), np.bool_)
            mask[self.positions(found)] = True
            if len(self._masks) >= 64:
                self._masks.clear()
            self._masks[source] = mask
        return self._masks[source]

    def filter_sql(self, source: str) -> str:
        """A filter as Lance's SQL, its metadata fields known to exist; raises as `mask` does."""
        parsed = parse_filter(source)
        for name in sorted(parsed.metadata_fields):
            if len(self) and not self._exists(f"{metadata_sql(name)} IS NOT NULL"):
                known = ", ".join(self._some_metadata_fields()) or "none"
                raise FilterError(f"filter: no document has the metadata field {name!r}; fields found: {known}")
        return parsed.sql

    def full_text(self, query: str, limit: int, where: str | None) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and BM25 scores of at most `limit` rows, best first; ties at the end cut anywhere."""
        self.asked = True
        with lance_errors(self._root):
            found = self._table.full_text(query, limit, where)
        return self.positions(found["_rowid"].to_numpy()), found["_score"].to_numpy()

    def unreadable_indexes(self) -> list[str]:
        """Columns whose index has lost a file, or has a damaged one."""
        with lance_errors(self._root):
            return self._table.unreadable()

    def nearest(
        self, query: NDArray[np.float32], limit: int, where: str | None, probes: int, *, exact: bool
    ) -> NDArray[np.int64]:
        """Positions of rows near a (D,) query by Lance's own vector index, or by its scan of all of them."""
        self.asked = True
        with lance_errors(self._root):
            found = self._table.nearest(query, limit, where, probes, exact=exact)
        return np.unique(self.positions(found["_rowid"].to_numpy()))

    def batches(self, columns: Sequence[str]) -> Generator[tuple[NDArray[np.int64], list[dict[str, Any]]]]:
        """Every row, some at a time and in any order: positions, and for each its columns."""
        with lance_errors(self._root):
            for batch in self._table.batches(columns):
                yield self.positions(batch["_rowid"].to_numpy()), batch.select(list(columns)).to_pylist()

    def scan(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        """Whole columns, in any order, with `_rowid`."""
        with lance_errors(self._root):
            return self._table.scan(columns, where)

    def _take_unique(self, positions: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        """Rows at rising positions."""
        held = self.rows.recent
        recent = held if held is not None and {*columns} <= {*held.column_names} else None
        begin = len(self) - (0 if recent is None else len(recent))
        old = positions[: np.searchsorted(positions, begin)]
        new = None if recent is None else recent.select(list(columns)).take(positions[len(old) :] - begin)
        if new is not None and not len(old):
            return new
        named = not len(old) or old[-1] < len(self.rows.ids)
        table, ids = (self._base, self.rows.ids) if named else (self._table, self.ids)
        stored = self._take_stored(table, ids[old], columns)
        return stored if new is None or not len(new) else pa.concat_tables([stored, new.cast(stored.schema)])

    def _take_stored(self, table: PinnedTable, ids: NDArray[np.uint64], columns: Sequence[str]) -> pa.Table:
        if not len(ids):
            schema = table.schema()
            return pa.schema([schema.field(name) for name in columns]).empty_table()
        with lance_errors(self._root):
            rows = table.take(ids, columns)
        if len(rows) < len(ids):
            lost = len(ids) - len(rows)
            raise StoreDamaged(f"the store at {self._root} has lost {lost} rows: restore a backup")
        if not (ids[1:] > ids[:-1]).all():
            rows = rows.take(np.argsort(np.argsort(ids)))
        return rows.drop_columns(["_rowid"])

    def _searched(self, rows: pa.Table) -> NDArray[np.float32]:
        widths = (self.layout.dimension, self.layout.router)
        parts = [
            np.concatenate([np.zeros((0, width), np.float32), *map(_matrix, rows[name].chunks)])
            for name, width in zip(_vector_columns(self.layout), widths, strict=False)
        ]
        if len(parts) == 1:
            return parts[0]
        for part in parts:
            normalize(part)
        return np.hstack(parts)

    def _all_vectors(self) -> NDArray[np.float32]:
        """Every vector, read in batches so that they are never in memory twice."""
        matrix = np.empty((len(self), self.layout.width), np.float32)
        filled = 0
        with lance_errors(self._root):
            for batch in self._table.batches(_vector_columns(self.layout)):
                matrix[self.positions(batch["_rowid"].to_numpy())] = self._searched(pa.Table.from_batches([batch]))
                filled += batch.num_rows
        if filled != len(self):
            raise StoreDamaged(f"the store at {self._root} gave {filled:,} of {len(self):,} vectors: restore a backup")
        return matrix

    def _exists(self, sql: str) -> bool:
        with lance_errors(self._root):
            return self._table.scan([], sql, limit=1).num_rows > 0

    def _some_metadata_fields(self) -> list[str]:
        with lance_errors(self._root):
            rows = self._table.scan(["metadata"], limit=1000)
        return sorted({name for text in rows["metadata"].to_pylist() for name in json.loads(text or "{}")})[:12]


def chunk_of(row: dict[str, Any]) -> Chunk:
    """A row's chunk."""
    return Chunk(row["doc_id"], row["ordinal"], row["start_char"], row["end_char"], row["text"])


def metadata_of(row: dict[str, Any]) -> Metadata:
    """A row's metadata."""
    return cast(Metadata, json.loads(row["metadata"] or "{}"))


def _vector_columns(layout: Layout) -> list[str]:
    return ["vector", "router"] if layout.router else ["vector"]


def _kept_columns(layout: Layout) -> list[str]:
    """What is kept of new rows: whatever a search needs of them."""
    return [*_vector_columns(layout), *(["terms", "weights"] if layout.terms else []), *HIT_COLUMNS]


def _matrix(column: Any) -> NDArray[np.float32]:
    """A fixed-size-list array as (n, D) float32; no copy."""
    return np.asarray(column.flatten()).reshape(-1, column.type.list_size)


def _csr(rows: pa.Table, width: int) -> csr_array:
    """The two list columns of sparse vectors as (n, width) rows."""
    terms, weights = rows["terms"].combine_chunks(), rows["weights"].combine_chunks()
    compute: Any = pyarrow.compute  # its functions are made when it is imported
    lengths = np.asarray(compute.list_value_length(terms), np.int64)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    indices = np.asarray(compute.list_flatten(terms)).astype(np.int32)
    return csr_array((np.asarray(compute.list_flatten(weights)), indices, indptr), shape=(len(lengths), width))
