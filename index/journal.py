"""The last small commits as they were written, so that a reader on this machine takes one up without asking Lance.

Opening a version of the table and finding its last rows takes Lance 8 ms of a search that takes 4, and 12 beside a busy
writer; reading them from here takes a quarter. The table stays the one truth: an entry is written before its commit,
and counts only once it bears the commit's name, the version's number and what its manifest looks like on the disk.
Where there is no such entry, or a damaged one, the reader asks Lance.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from .files import mark_of
from .watch import manifest_of

RECENT = "recent"
# Entries kept, and how large a commit may be to get one.
MOST_ENTRIES, MOST_ROWS, MOST_DOCUMENTS, MOST_BYTES = 64, 256, 256, 1 << 20
_NEXT, _STILL = "next", "still"
_DOCUMENTS = b"documents"
# A writer names its entry right behind the commit; asking Lance takes longer than all of these looks.
_WAIT, _LOOKS = 0.0005, 10


@dataclass(frozen=True)
class Entry:
    """One commit.

    Attributes:
        documents: what they held before is gone.
        rows: what came, columns as they were committed, in any order.
    """

    documents: tuple[str, ...]
    rows: pa.Table


class Journal:
    """The entries of one store. Only who holds the writer's lock may write."""

    def __init__(self, folder: Path, table: Path) -> None:
        """Entries are in `folder`, the Lance table in `table`, which is not on this machine for a bucket's store."""
        self._folder, self._table = folder, table

    def begin(self) -> None:
        """Remove what a writer that was killed has left half-done; to be called before anything is written."""
        for name in (_NEXT, _STILL):
            with suppress(OSError):
                (self._folder / name).unlink(missing_ok=True)

    def prepare(self, documents: Sequence[str], rows: pa.Table) -> None:
        """Write what is about to be committed; nothing where that is much, or cannot be written."""
        small = rows.num_rows <= MOST_ROWS and len(documents) <= MOST_DOCUMENTS and rows.nbytes <= MOST_BYTES
        try:
            if not small or not self._table.is_dir():
                (self._folder / _NEXT).unlink(missing_ok=True)
                return
            self._folder.mkdir(exist_ok=True)
            (self._folder / _NEXT).write_bytes(_packed(Entry(tuple(documents), rows)))
        except OSError:
            self.clear()

    def commit(self, version: int) -> None:
        """Name what was prepared after the version that it became, and drop old entries."""
        manifest = manifest_of(self._table, version)
        try:
            if manifest is not None:
                (self._folder / _NEXT).rename(self._folder / _name(version, manifest))
            kept = range(version - MOST_ENTRIES + 1, version + 1)
            for entry in self._folder.glob("*-*"):
                if int(entry.name.split("-")[0]) not in kept:
                    entry.unlink(missing_ok=True)
        except (OSError, ValueError):
            return  # readers ask Lance

    @contextmanager
    def still(self, version: int) -> Generator[None]:
        """Tell readers that the versions made meanwhile hold the same rows as this one; then drop all entries.

        Behind compaction Lance calls rows by other names, so that readers have to ask it again once; when it has only
        announced one, they would open a hundred small files for it that are gone a moment later.
        """
        manifest = manifest_of(self._table, version)
        try:
            if manifest is not None:
                with suppress(OSError):
                    self._folder.mkdir(exist_ok=True)
                    (self._folder / _STILL).write_text(_name(version, manifest), encoding="utf-8")
            yield
        finally:
            self.clear()

    def is_still(self, version: int) -> bool:
        """Whether the newest version holds the rows of this one, see `still`."""
        try:
            wanted = (self._folder / _STILL).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return False
        manifest = manifest_of(self._table, version)
        return manifest is not None and wanted == _name(version, manifest)

    def clear(self) -> None:
        """Drop all entries."""
        try:
            for entry in self._folder.iterdir():
                entry.unlink(missing_ok=True)
        except OSError:
            return

    def since(self, version: int, newest: int) -> list[Entry] | None:
        """What became of the table from one version to a newer one; None where not all of it is known."""
        if not 0 < newest - version <= MOST_ENTRIES:
            return None
        found: list[Entry] = []
        for number in range(newest, version, -1):
            entry = self._entry(number, wait=number == newest)
            if entry is None:
                return None
            found.append(entry)
        return found[::-1]

    def _entry(self, version: int, *, wait: bool) -> Entry | None:
        manifest = manifest_of(self._table, version)
        if manifest is None:
            return None
        path = self._folder / _name(version, manifest)
        for _ in range(_LOOKS):
            unnamed = wait and (self._folder / _NEXT).exists()  # looked for first: it may get its name in between
            try:
                return _unpacked(path.read_bytes())
            except FileNotFoundError:
                if not unnamed:
                    return None
                time.sleep(_WAIT)
            except (OSError, ValueError):
                return None
        return None


def _name(version: int, manifest: Path) -> str:
    return f"{version}-{mark_of(manifest)}"


def _packed(entry: Entry) -> bytes:
    """A checksum of 4 bytes, and an Arrow stream with the documents in its schema."""
    rows = entry.rows.replace_schema_metadata({_DOCUMENTS: json.dumps(entry.documents)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as stream:
        stream.write_table(rows)
    data = sink.getvalue().to_pybytes()
    return zlib.crc32(data).to_bytes(4, "little") + data


def _unpacked(raw: bytes) -> Entry:
    """Undo `_packed`; ValueError for anything else."""
    data = memoryview(raw)[4:]
    if zlib.crc32(data).to_bytes(4, "little") != raw[:4]:
        raise ValueError("not what was written")
    rows = pa.ipc.open_stream(pa.py_buffer(data)).read_all()
    documents = json.loads((rows.schema.metadata or {})[_DOCUMENTS])
    return Entry(tuple(documents), rows.replace_schema_metadata(None))
