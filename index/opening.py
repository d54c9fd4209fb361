"""Finding, creating and migrating a store, before any handle on it exists."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lancedb

from .encoder import Encoder
from .errors import StoreDamaged, StoreError, StoreNotFound, StoreReadOnly, StoreVersionError, lance_errors
from .journal import RECENT
from .layout import layout_of
from .lease import Lease
from .lexical import create_text_index
from .lock import WriterLock
from .meta import META_SCRATCH, StoreMeta, read_meta, write_meta
from .migrations import migrate
from .place import LANCE, Place
from .schema import SCHEMA_VERSION, TABLE, table_schema

LOCK = "lock"
ACCELERATORS = "accelerators"


def locate(
    place: Place, encoder: Encoder | None, *, create: bool, read_only: bool, outputs: Sequence[str] | None = None
) -> StoreMeta:
    """The description of the store at `place`, created or migrated first where that is asked for.

    Raises:
        StoreNotFound, StoreVersionError, StoreDamaged, StoreLocked, StoreReadOnly: see `Store.open`.
    """
    meta = read_meta(place, newest=SCHEMA_VERSION)
    if meta is None:
        if not create:
            raise _not_found(place)
        if encoder is None:
            raise StoreError(f"a new store at {place} needs the encoder whose vectors it will hold")
        return _create(place, encoder, outputs)
    if meta.schema < SCHEMA_VERSION:
        if read_only or place.remote:
            raise StoreVersionError(
                f"the store at {place} has the older schema {meta.schema}: run decant index on it once to migrate it"
            )
        return _migrate(place)
    if not place.remote and not (place.folder / LANCE / f"{TABLE}.lance").is_dir():
        raise StoreDamaged(f"the store at {place} has lost its tables: restore a backup, or index into a new folder")
    return meta


def model_name(encoder: Encoder) -> str:
    """What to call an encoder in messages: its folder's name where it has one (the protocol asks for none)."""
    path: Any = getattr(encoder, "path", None)
    return Path(path).name if path else ""


def model_path(encoder: Encoder) -> str:
    """The folder an encoder was loaded from, absolute; empty where it has none or is the one that ships."""
    path: Any = getattr(encoder, "path", None)
    if path is None or Path(path).resolve().is_relative_to(Path(__file__).resolve().parents[1] / "embedder"):
        return ""
    return str(Path(path).resolve())


def lock_of(place: Place) -> WriterLock | Lease:
    """The one-writer lock of a place, not taken yet."""
    return Lease(place, LOCK) if place.remote else WriterLock(place.folder / LOCK)


def _create(place: Place, encoder: Encoder, outputs: Sequence[str] | None) -> StoreMeta:
    if not place.remote:
        _make_folder(place.folder)
    lock = lock_of(place)
    lock.acquire()
    try:
        # Another process may have created it between the look and the lock.
        meta = read_meta(place, newest=SCHEMA_VERSION)
        if meta is None:
            meta = _fresh_meta(encoder, outputs)
            with lance_errors(place):
                # Tables without store.json are those of a creation that was killed: nothing was ever put in.
                if not place.remote:
                    shutil.rmtree(place.folder / LANCE, ignore_errors=True)
                database = lancedb.connect(place.tables)
                # Overwriting what is not there makes Lance warn on stderr.
                mode = "overwrite" if place.remote else "create"
                table = database.create_table(TABLE, schema=table_schema(meta.layout), mode=mode)
                create_text_index(table)
            write_meta(place, meta)
        return meta
    finally:
        lock.release()


def _make_folder(root: Path) -> None:
    if root.is_dir() and any(entry.name not in (LANCE, LOCK, META_SCRATCH, RECENT) for entry in root.iterdir()):
        raise StoreError(f"{root} holds other files and no store: choose an empty or a new folder with --store")
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreReadOnly(f"cannot create a store at {root}: {error.strerror}; choose another folder") from error


def _fresh_meta(encoder: Encoder, outputs: Sequence[str] | None) -> StoreMeta:
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    layout = layout_of(encoder, outputs)
    return StoreMeta(
        SCHEMA_VERSION,
        encoder.fingerprint,
        layout.dimension,
        model_name(encoder),
        created,
        layout.terms,
        layout.router,
        model_path(encoder),
    )


def _migrate(place: Place) -> StoreMeta:
    lock = lock_of(place)
    lock.acquire()
    try:
        meta = read_meta(place, newest=SCHEMA_VERSION)
        assert meta is not None, "store.json was there before the lock and is never removed"
        return migrate(place.folder, meta, target=SCHEMA_VERSION, tables=LANCE)
    finally:
        lock.release()


def _not_found(place: Place) -> StoreNotFound:
    if not place.remote and place.folder.exists() and not place.folder.is_dir():
        return StoreNotFound(f"{place} is a file, not a store: name the folder given to decant index --store")
    return StoreNotFound(f"there is no store at {place}: make one with decant index PATH --store {place}")
