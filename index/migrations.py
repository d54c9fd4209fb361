"""Numbered migrations: `MIGRATIONS[n]` turns a store of schema n into one of schema n + 1.

A migration is never edited once released. Each one must be repeatable, because a crash after it and before the new
number is written makes it run again. The store as it was is kept under `backups/` (hard links, since Lance never
changes a file it has written), until the user removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import lancedb
import pyarrow as pa

from .errors import StoreVersionError
from .meta import META_FILE, StoreMeta, write_meta
from .place import place_of
from .schema import TABLE, words_of

Migration = Callable[[Path], None]
BACKUPS = "backups"


def _titles_in_the_text_index(root: Path) -> None:
    """Schema 2 has a column `words`, title and text, for the full-text index, which read the text alone before."""
    from .lexical import TEXT_INDEX, create_text_index

    database = lancedb.connect(root / "lance")
    table = database.open_table(TABLE)
    if "words" not in table.schema.names:
        place = table.schema.names.index("text") + 1
        schema = table.schema.insert(place, pa.field("words", pa.string(), nullable=False))

        # In memory as a whole: Lance reads what it is to write on the thread that would have to read the table.
        batches: list[pa.RecordBatch] = []
        for batch in table.search().limit(None).to_batches():
            pairs = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
            words = pa.array([words_of(title, text) for title, text in pairs], pa.string())
            arrays = {name: batch[name] for name in table.schema.names}
            batches.append(pa.RecordBatch.from_pydict({**arrays, "words": words}, schema=schema))
        # One commit: before it the table is the old one, after it the new one, without indexes.
        table = database.create_table(TABLE, pa.Table.from_batches(batches, schema), mode="overwrite")
    names = {index.name for index in table.list_indices()}
    if TEXT_INDEX not in names:
        create_text_index(table)
    if "text_idx" in names:
        table.drop_index("text_idx")


MIGRATIONS: Mapping[int, Migration] = {1: _titles_in_the_text_index}


def migrate(
    root: Path, meta: StoreMeta, *, target: int, tables: str, migrations: Mapping[int, Migration] = MIGRATIONS
) -> StoreMeta:
    """Bring the store at `root` to schema `target`, one step at a time; the writer's lock must be held.

    Args:
        root: the store's folder.
        meta: its description as it is.
        target: the schema wanted.
        migrations: by the number they start from; a test's own, or the real ones.
        tables: the subfolder that migrations may change, saved before the first one.

    Raises:
        StoreVersionError: the chain of migrations has a gap; nothing was changed.
    """
    missing = [n for n in range(meta.schema, target) if n not in migrations]
    if missing:
        raise StoreVersionError(
            f"the store at {root} has schema {meta.schema}, too old to be migrated: index into a new folder"
        )
    if meta.schema < target:
        back_up(root, root / BACKUPS / f"schema-{meta.schema}", tables)
    for number in range(meta.schema, target):
        migrations[number](root)
        meta = replace(meta, schema=number + 1)
        write_meta(place_of(root), meta)
    return meta


def back_up(
    root: Path,
    target: Path,
    tables: str,
    *,
    extra: Sequence[str] = (),
    copy: Callable[[str, str], object] | None = None,
) -> None:
    """Keep the tables and `store.json` as they are; a finished backup is never overwritten.

    Args:
        root: the store's folder.
        target: the backup's.
        tables: the subfolder to keep.
        extra: files to keep where they are there.
        copy: copies one file; None for a hard link where the file system has them.
    """
    if target.exists():
        return
    scratch = target.with_name(target.name + ".new")
    shutil.rmtree(scratch, ignore_errors=True)
    shutil.copytree(root / tables, scratch / tables, copy_function=copy or _link_or_copy)
    for name in (META_FILE, *extra):
        if (root / name).is_file():
            shutil.copy2(root / name, scratch / name)
    os.replace(scratch, target)


def _link_or_copy(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
