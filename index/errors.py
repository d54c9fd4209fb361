"""The index's errors a user can cause; the tree below `DecantError`.

StoreError
├── StoreNotFound     nothing has been indexed there
├── StoreLocked       another process is writing
├── StoreMismatch     made by another model
├── StoreVersionError made by a newer Decant, or by an older one that must be migrated first
├── StoreDamaged      a file of the store cannot be read
└── StoreReadOnly     the folder or the handle does not allow writing
ClusterError          workers that cannot be started or kept alive
BatchError            documents handed to the store that it must not keep
FilterError           a filter that cannot be understood
QueryError            a query or a number of results that makes no sense
"""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager

from ..embedder.errors import DecantError


class StoreError(DecantError):
    """A store that cannot be opened, read or written as asked."""


class StoreNotFound(StoreError):
    """No store at this path."""


class StoreLocked(StoreError):
    """Another process holds the writer's lock."""


class StoreMismatch(StoreError):
    """The store's vectors come from another encoder."""


class StoreVersionError(StoreError):
    """The store's schema is not the one this version of Decant reads."""


class StoreDamaged(StoreError):
    """A file of the store is missing, cut short or not what it should be."""


class StoreReadOnly(StoreError):
    """Writing was asked of a store that can only be read."""


class ClusterError(DecantError):
    """Ray is not there, or its workers die; nothing of the run is visible, and the same run goes on where it ended."""


class BatchError(DecantError):
    """Documents, chunks or vectors that do not fit together; nothing of the batch was stored."""


class FilterError(DecantError):
    """A filter that cannot be parsed, or that names a field no document has."""


class QueryError(DecantError):
    """An empty query, an impossible k, or query vectors that do not fit the store."""


# Where in Lance's own source an error was raised: a path of the machine that built it.
_RUST = re.compile(r",? /\S*(?:/rustc/|/\.cargo/|\.rs:\d)|, /rustc/")


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
        text = _RUST.split(" ".join(str(error).split()))[0]
        if "No space left" in text or "os error 28" in text:
            raise StoreError(
                f"the disk of {root} is full: free some space and run the command again; what was stored is safe"
            ) from error
        raise StoreDamaged(
            f"the store at {root} cannot be read or written ({text[:160]}): restore a backup, "
            "or index into a new folder"
        ) from error
