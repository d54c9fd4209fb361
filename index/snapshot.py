"""A `Snapshot`: one version of a store's table, and everything that is read from it.

A query reads from one snapshot only, so its vectors, texts and filters agree with each other whatever a writer does
meanwhile. Rows are addressed by position, 0 to N - 1, in the order of their Lance row ids.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute
from lancedb.query import MatchQuery
from lancedb.table import Table
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .documents import Chunk, Metadata
from .errors import FilterError, StoreDamaged, StoreError
from .filters import metadata_sql, parse_filter
from .layout import Layout
from .schema import chunk_id
from .topk import normalize

TAKE_ROWS = 8192
HIT_COLUMNS = ("doc_id", "ordinal", "start_char", "end_char", "text", "title", "path", "metadata")


class Snapshot:
    """The rows of one table version.

    Attributes:
        version: Lance's number of the version.
        layout: what its rows hold.
        chunk_ids: (N,) bytes, 32 hex digits each.
        keys: (N,) int64, see `schema.table_schema`.
        vector_index: what Lance calls its own index over the vectors; empty where there is none.
    """

    def __init__(
        self, table: Table, version: int, root: object, layout: Layout, previous: Snapshot | None = None
    ) -> None:
        """Pin `table`, a handle of its own, to `version`; of the rows in `previous` nothing is read again."""
        self._table = table
        self._root = root
        self.version = version
        self.layout = layout
        with lance_errors(root):
            table.checkout(version)
            self._row_ids: NDArray[np.uint64] = np.sort(self._scan([])["_rowid"].to_numpy())
        self.keys: NDArray[np.int64] = np.zeros(len(self), np.int64)
        self.chunk_ids: NDArray[np.bytes_] = np.zeros(len(self), "S32")
        self._name(previous)
        self.vector_index = vector_index(table)
        self._masks: dict[str, NDArray[np.bool_]] = {}

    def __len__(self) -> int:
        return len(self._row_ids)

    def _name(self, previous: Snapshot | None) -> None:
        """Fill in keys and chunk ids. A row id always means the same row: Lance numbers no fragment twice."""
        fresh = np.arange(len(self))
        if previous is not None and len(previous):
            old = np.minimum(np.searchsorted(previous._row_ids, self._row_ids), len(previous) - 1)
            known = previous._row_ids[old] == self._row_ids
            if 2 * np.count_nonzero(known) > len(self):
                self.keys[known], self.chunk_ids[known] = previous.keys[old[known]], previous.chunk_ids[old[known]]
                fresh = np.flatnonzero(~known)
        if len(fresh) < len(self):
            rows, places = self.take(fresh, ["key", "chunk_id"]), fresh
        else:
            rows = self.scan(["key", "chunk_id"])
            places = self.positions(rows["_rowid"].to_numpy())
        self.keys[places] = rows["key"].to_numpy()
        self.chunk_ids[places] = np.array(rows["chunk_id"].to_pylist(), "S32")

    @cached_property
    def _by_name(self) -> NDArray[np.int64]:
        return np.argsort(self.chunk_ids)

    def positions(self, row_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Where rows with these Lance row ids are; every id must be of this version."""
        return np.searchsorted(self._row_ids, row_ids)

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
        return self._searched(self.take(positions, self._vector_columns))

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
        if source not in self._masks:
            sql = self.filter_sql(source)
            with lance_errors(self._root):
                found = self._scan([], where=sql)["_rowid"].to_numpy()
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
        with lance_errors(self._root):
            search = self._table.search(_match(query), query_type="fts").with_row_id(True)
            if where is not None:
                search = search.where(where)
            found = search.select(["_rowid", "_score"]).limit(limit).to_arrow()
        return self.positions(found["_rowid"].to_numpy()), found["_score"].to_numpy()

    def nearest(
        self, query: NDArray[np.float32], limit: int, where: str | None, probes: int, *, exact: bool
    ) -> NDArray[np.int64]:
        """Positions of rows near a (D,) query by Lance's own vector index, or by its scan of all of them."""
        with lance_errors(self._root):
            # The checker believes a search without a query type to be any of all kinds.
            search: Any = cast(Any, self._table).search(query, vector_column_name="vector")
            search = search.distance_type("cosine")
            search = search.bypass_vector_index() if exact else search.nprobes(probes)
            if where is not None:
                search = search.where(where, prefilter=True)
            found = search.with_row_id(True).select(["_rowid", "_distance"]).limit(limit).to_arrow()
        return np.unique(self.positions(found["_rowid"].to_numpy()))

    def batches(self, columns: Sequence[str]) -> Generator[tuple[NDArray[np.int64], list[dict[str, Any]]]]:
        """Every row, some at a time and in any order: positions, and for each its columns."""
        with lance_errors(self._root):
            for batch in self._table.search().with_row_id(True).select(["_rowid", *columns]).limit(None).to_batches():
                yield self.positions(batch["_rowid"].to_numpy()), batch.select(list(columns)).to_pylist()

    def scan(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        """Whole columns, in any order, with `_rowid`."""
        with lance_errors(self._root):
            return self._scan(columns, where)

    def _scan(self, columns: Sequence[str], where: str | None = None) -> pa.Table:
        search = self._table.search().with_row_id(True).select(["_rowid", *columns])
        if where is not None:
            search = search.where(where)
        return cast(pa.Table, search.limit(None).to_arrow())

    def _take_unique(self, positions: NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
        with lance_errors(self._root):
            if not len(positions):
                return pa.schema([self._table.schema.field(name) for name in columns]).empty_table()
            row_ids = self._row_ids[positions]
            builder = self._table.take_row_ids([int(i) for i in row_ids]).select(list(columns)).with_row_id()
            rows = cast(pa.Table, builder.to_arrow())
        found = rows["_rowid"].to_numpy()
        order = np.argsort(found)  # Lance promises no order
        if not np.array_equal(found[order], row_ids):
            raise StoreDamaged(f"the store at {self._root} has lost {len(row_ids) - len(found)} rows: restore a backup")
        return rows.drop_columns(["_rowid"]).take(order)

    @property
    def _vector_columns(self) -> list[str]:
        return ["vector", "router"] if self.layout.router else ["vector"]

    def _searched(self, rows: pa.Table) -> NDArray[np.float32]:
        parts = [
            np.concatenate([np.zeros((0, width), np.float32), *map(_matrix, rows[name].chunks)])
            for name, width in zip(self._vector_columns, (self.layout.dimension, self.layout.router), strict=False)
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
            search = self._table.search().with_row_id(True).select(["_rowid", *self._vector_columns]).limit(None)
            for batch in search.to_batches():
                matrix[self.positions(batch["_rowid"].to_numpy())] = self._searched(pa.Table.from_batches([batch]))
                filled += batch.num_rows
        if filled != len(self):
            raise StoreDamaged(f"the store at {self._root} gave {filled:,} of {len(self):,} vectors: restore a backup")
        return matrix

    def _exists(self, sql: str) -> bool:
        with lance_errors(self._root):
            return self._table.search().where(sql).select(["doc_id"]).limit(1).to_arrow().num_rows > 0

    def _some_metadata_fields(self) -> list[str]:
        with lance_errors(self._root):
            rows = self._table.search().select(["metadata"]).limit(1000).to_arrow()
        return sorted({name for text in rows["metadata"].to_pylist() for name in json.loads(text or "{}")})[:12]


def vector_index(table: Table) -> str:
    """What Lance calls its own index over the vectors of a table; empty where there is none."""
    return next((index.index_type for index in table.list_indices() if index.columns == ["vector"]), "")


def chunk_of(row: dict[str, Any]) -> Chunk:
    """A row's chunk."""
    return Chunk(row["doc_id"], row["ordinal"], row["start_char"], row["end_char"], row["text"])


def metadata_of(row: dict[str, Any]) -> Metadata:
    """A row's metadata."""
    return cast(Metadata, json.loads(row["metadata"] or "{}"))


@contextmanager
def lance_errors(root: object) -> Generator[None]:
    """Turn Lance's multi-line errors into one line that says what to do.

    Raises:
        StoreError: the disk is full.
        StoreDamaged: any other failure to read or write the tables.
    """
    try:
        yield
    except (RuntimeError, OSError, ValueError) as error:
        text = " ".join(str(error).split()).split(", /rustc/")[0]
        if "No space left" in text or "os error 28" in text:
            raise StoreError(
                f"the disk of {root} is full: free some space and run the command again; what was stored is safe"
            ) from error
        raise StoreDamaged(
            f"the store at {root} cannot be read or written ({text[:160]}): restore a backup, "
            "or index into a new folder"
        ) from error


def _match(query: str) -> MatchQuery:
    # The stub forgets that the other fields have defaults.
    return cast(Any, MatchQuery)(query, "words")


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
