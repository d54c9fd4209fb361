"""Which rows a version of the table has: read anew, or from the version before and the rows that came since.

Rows are addressed by Lance's row ids, a fragment's number and a place in it. Lance numbers no fragment twice, new
fragments have the highest numbers, and a scan goes through fragments in the order of their numbers. So the rows that
came since a version are the last ones of a scan; those that went because their documents were replaced are known by
their documents; and that these are all of them is seen by counting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .journal import Entry
from .pinned import PinnedTable, by_row_id

NAMES = ("key", "chunk_id", "doc_id")
# With more new rows than this all are looked at again; this many steps between versions are remembered.
MOST_NEW = 512
MOST_STEPS = 64
# Bytes of new rows that are kept.
MOST_RECENT = 16 << 20
MOST_PIECES = 16
# The part of a row id that is the place in its fragment.
PLACE = 0xFFFF_FFFF


@dataclass(frozen=True)
class Step:
    """What became of the N rows of `version`: some went, others came behind those that stayed.

    Attributes:
        removed: positions of rows that went, rising.
    """

    version: int
    rows: int
    removed: NDArray[np.int64]

    def moved(self) -> NDArray[np.int64]:
        """(N + 1,) where each row is now, -1 where it went; the last entry, of position -1, is -1, too."""
        stays = np.ones(self.rows + 1, np.bool_)
        stays[self.removed] = stays[-1] = False
        places = np.cumsum(stays) - 1
        places[~stays] = -1
        return places


@dataclass(frozen=True)
class Rows:
    """The N rows of one version by position, in the order of their row ids, but for those that came by the journal.

    Attributes:
        version: of the table.
        ids: (M,) uint64, of the first M rows; what Lance calls the others, which came by the journal, is not known yet.
        keys: (N,) int64, see `schema.table_schema`.
        chunk_ids: (N,) bytes, 32 hex digits each.
        documents: (N,) int64, what Python's hash makes of each row's doc_id, of this process only.
        steps: how the last versions led here, oldest first.
        recent: columns of the last R rows, R >= N - M, where they are at hand.
        came: how many of those came with the last step.
    """

    version: int
    ids: NDArray[np.uint64]
    keys: NDArray[np.int64]
    chunk_ids: NDArray[np.bytes_]
    documents: NDArray[np.int64]
    steps: tuple[Step, ...] = ()
    recent: pa.Table | None = field(default=None, repr=False)
    came: int = 0

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def fresh(self) -> pa.Table | None:
        """Columns of the rows that came with the last step, where they are at hand."""
        return None if self.recent is None else self.recent[len(self.recent) - self.came :]

    def moved(self, version: int) -> NDArray[np.int64] | None:
        """`Step.moved` from an older version to this; None where that is not remembered."""
        first = next((i for i, step in enumerate(self.steps) if step.version == version), None)
        if first is None:
            return None
        places = self.steps[first].moved()
        for step in self.steps[first + 1 :]:
            places = step.moved()[places]
        return places


def read_rows(table: PinnedTable, known: Rows | None = None) -> Rows:
    """Every row of a version; of rows in `known` only ids and keys are read again."""
    found = by_row_id(table.scan(["key"]))
    ids, keys = found["_rowid"].to_numpy(), found["key"].to_numpy()
    held, old = _places_in(known, keys) if known is not None else (np.zeros(len(ids), np.bool_), ids)
    fresh = np.flatnonzero(~held)
    if known is None or 2 * len(fresh) >= len(ids):
        _, chunk_ids, documents = _names_of(by_row_id(table.scan(NAMES)))
        return Rows(table.version, ids, keys, chunk_ids, documents)
    chunk_ids, documents = known.chunk_ids[old], known.documents[old]
    if len(fresh):
        names = _names_of(table.take(ids[fresh], NAMES))
        if len(names[0]) < len(fresh):
            raise OSError(f"{len(fresh) - len(names[0])} rows are lost")
        _, chunk_ids[fresh], documents[fresh] = names
    return Rows(table.version, ids, keys, chunk_ids, documents, _one_step(known, held, old[held]))


def next_rows(table: PinnedTable, known: Rows, columns: Sequence[str]) -> Rows | None:
    """Every row of a version, from those of an older one and what was added and replaced since.

    Args:
        table: the version; none since that of `known` was a return to an older one.
        known: the rows of an older version.
        columns: what to read of new rows besides their names.

    Returns:
        None where more than that happened: rows were deleted, moved by compaction, or are too many.
    """
    last = _last_rows(table, known, [*dict.fromkeys([*NAMES, *columns])])
    if last is None:
        return None
    before, older, fresh = last
    keys, chunk_ids, documents = _names_of(fresh)
    removed = np.flatnonzero(np.isin(known.documents, documents))
    stay = np.delete(known.ids, removed)
    if len(stay) != before + len(older) or not np.array_equal(stay[before:], older):
        return None
    if np.isin(known.keys[removed], keys).any():
        return None  # moved, or written again as they were
    return Rows(
        table.version,
        np.concatenate([stay, fresh["_rowid"].to_numpy()]),
        np.concatenate([np.delete(known.keys, removed), keys]),
        np.concatenate([np.delete(known.chunk_ids, removed), chunk_ids]),
        np.concatenate([np.delete(known.documents, removed), documents]),
        (*known.steps, Step(known.version, len(known), removed))[-MOST_STEPS:],
        fresh,
        len(fresh),
    )


def journal_rows(known: Rows, entries: Sequence[Entry], version: int, columns: Sequence[str]) -> Rows | None:
    """Every row of a version, from those of an older one and the commits since.

    Args:
        known: the rows of the older version.
        entries: the commits, oldest first.
        version: what the last of them made.
        columns: what to keep of new rows besides their names.

    Returns:
        None where a row was written again as it was, or too much has come by the journal since Lance was asked.
    """
    replaced: set[str] = set()
    came: list[pa.Table] = []
    for entry in reversed(entries):
        rows = entry.rows.select([*dict.fromkeys([*NAMES, *columns])])
        if not replaced.isdisjoint(entry.documents):
            rows = rows.filter(pa.array([name not in replaced for name in rows["doc_id"].to_pylist()], pa.bool_()))
        came.append(rows)
        replaced.update(entry.documents)
    fresh = pa.concat_tables(came[::-1])
    keys, chunk_ids, documents = _names_of(fresh)
    stay = ~np.isin(known.documents, np.fromiter(map(hash, replaced), np.int64, len(replaced)))
    removed, held = np.flatnonzero(~stay), len(known.ids)
    if np.isin(known.keys[removed], keys).any():
        return None
    recent = fresh
    if known.recent is not None:
        recent = _behind(known.recent, stay[len(known) - len(known.recent) :], fresh)
    ids = known.ids[stay[:held]]
    if len(known) - len(removed) + len(fresh) - len(ids) > MOST_NEW or recent.nbytes > MOST_RECENT:
        return None
    return Rows(
        version,
        ids,
        np.concatenate([known.keys[stay], keys]),
        np.concatenate([known.chunk_ids[stay], chunk_ids]),
        np.concatenate([known.documents[stay], documents]),
        (*known.steps, Step(known.version, len(known), removed))[-MOST_STEPS:],
        recent,
        len(fresh),
    )


def _last_rows(
    table: PinnedTable, known: Rows, columns: Sequence[str]
) -> tuple[int, NDArray[np.uint64], pa.Table] | None:
    """All rows that came after `known`, the ids of one or more before them, and how many rows come before those."""
    size = 2
    while size <= MOST_NEW and len(known) and len(known.ids) == len(known):
        begin = max(0, len(known) - size)
        found = table.last(columns, begin, 2 * MOST_NEW)
        ids = found["_rowid"].to_numpy()
        if len(ids) == 2 * MOST_NEW or (ids[1:] <= ids[:-1]).any():
            return None
        if older := int(np.searchsorted(ids, known.ids[-1], side="right")):
            return begin, ids[:older], found[older:]
        if not begin:
            return None
        # New rows fill their fragment from its first place on, so the first one found tells how many come before it.
        size += 2 + (int(ids[0]) & PLACE if len(ids) else size)
    return None


def _behind(older: pa.Table, stay: NDArray[np.bool_], fresh: pa.Table) -> pa.Table:
    """The rows of a table that stay, and fresh ones behind them."""
    if older.schema != fresh.schema:
        older = older.select(fresh.column_names).cast(fresh.schema)
    if not stay.all():
        older = older.filter(pa.array(stay))
    joined = pa.concat_tables([older, fresh])
    # Whatever is asked of a table is asked of each of its pieces.
    return joined.combine_chunks() if joined.column(0).num_chunks > MOST_PIECES else joined


def _places_in(known: Rows, keys: NDArray[np.int64]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which keys are of known rows, and where those are."""
    if np.array_equal(keys, known.keys):  # compaction, most of the time
        return np.ones(len(keys), np.bool_), np.arange(len(keys))
    if not len(known):
        return np.zeros(len(keys), np.bool_), np.zeros(len(keys), np.int64)
    order = np.argsort(known.keys)
    old = order[np.minimum(np.searchsorted(known.keys, keys, sorter=order), len(known) - 1)]
    return known.keys[old] == keys, old


def _one_step(known: Rows, held: NDArray[np.bool_], old: NDArray[np.int64]) -> tuple[Step, ...]:
    """The step from `known` to rows of which those `held` are its rows `old`; none where it was not of that kind."""
    if not held[: len(old)].all() or (old[1:] <= old[:-1]).any():
        return ()
    stays = np.zeros(len(known), np.bool_)
    stays[old] = True
    return (*known.steps, Step(known.version, len(known), np.flatnonzero(~stays)))[-MOST_STEPS:]


def _names_of(found: pa.Table) -> tuple[NDArray[np.int64], NDArray[np.bytes_], NDArray[np.int64]]:
    """`NAMES`, documents by their hash."""
    documents = found["doc_id"].to_pylist()
    hashes = np.fromiter(map(hash, documents), np.int64, len(documents))
    return found["key"].to_numpy(), np.array(found["chunk_id"].to_pylist(), "S32"), hashes
