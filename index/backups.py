"""Snapshots: named versions of a store that clean-up spares, the way back to them, and copies elsewhere.

A snapshot is a tag on a version of the table: it costs nothing when it is taken, but no version since the oldest
snapshot is cleaned up until that is dropped. Going back is a commit like any other: readers see it whole with their
next call, and can go back from it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from .errors import StoreError, StoreNotFound, lance_errors
from .files import fsync_folder
from .meta import write_meta
from .migrations import back_up
from .place import LANCE
from .roots import ROOTS_FILE
from .store import Store

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class Version:
    """A version that can be gone back to; `name` is empty where nobody named it."""

    number: int
    name: str
    made: datetime


def versions(store: Store) -> list[Version]:
    """Every version there still is, oldest first; the last one is what the store holds now."""
    with lance_errors(store.place):
        names = {int(tag["version"]): name for name, tag in _tags(store).list().items()}
        listed: list[Any] = store.table.list_versions()
    made = [Version(int(v["version"]), names.get(int(v["version"]), ""), v["timestamp"]) for v in listed]
    return sorted(made, key=lambda version: version.number)


def take_snapshot(store: Store, name: str) -> Version:
    """Name the store's present version, so that it can be gone back to whatever happens after.

    Raises:
        StoreError: the name is taken, or is no name.
    """
    if not _NAME.fullmatch(name):
        raise StoreError(f"{name!r} is no name for a snapshot: use letters, digits, dots, dashes and underscores")
    with store.writer():
        if any(version.name == name for version in versions(store)):
            raise StoreError(f"there is a snapshot {name!r} already: choose another name, or drop that one first")
        with lance_errors(store.place):
            _tags(store).create(name, store.table.version)
        return next(version for version in versions(store) if version.name == name)


def drop_snapshot(store: Store, name: str) -> None:
    """Forget a snapshot; the next `optimize` frees what only it held. Raises StoreNotFound."""
    with store.writer():
        _number(store, name)
        with lance_errors(store.place):
            _tags(store).delete(name)


def restore(store: Store, version: int | str) -> int:
    """Make the store hold again what it held at a version, given by number or by name; returns the new version.

    Accelerators stay: what they cover and the version lacks is masked out, what they lack is searched exactly.

    Raises:
        StoreNotFound: there is no such version any more.
    """
    with store.writer():
        number = _number(store, version)
        with lance_errors(store.place):
            store.table.restore(number)
            # Whoever follows the store from version to version sees by the new file that rows may have come back.
            write_meta(store.place, store.meta)
            return int(store.table.version)


def back_up_to(store: Store, folder: Path) -> None:
    """Copy the store to a folder of its own, on another disk perhaps; nobody writes meanwhile. The copy is a store.

    Raises:
        StoreError: the folder is there already, or cannot be written; nothing half-copied is left. Or the store is on
            object storage.
    """
    if store.place.remote:
        raise StoreError(f"{store.place} is on object storage: copy it with the storage's own tools")
    if folder.exists():
        raise StoreError(f"{folder} is there already: choose another folder")
    with store.writer():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            back_up(store.root, folder, LANCE, extra=(ROOTS_FILE,), copy=shutil.copy2)
            fsync_folder(folder.parent)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(folder.with_name(folder.name + ".new"), ignore_errors=True)
            raise StoreError(f"the copy could not be written ({error}): the store is as it was") from error


def _number(store: Store, version: int | str) -> int:
    known = versions(store)
    for one in known:
        if version in (one.number, one.name or None):
            return one.number
    names = [one.name or str(one.number) for one in known]
    raise StoreNotFound(f"the store at {store.place} has no version {version!r}; there are: {', '.join(names[-20:])}")


def _tags(store: Store) -> Any:
    return store.table.tags
