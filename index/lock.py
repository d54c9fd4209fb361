"""The one-writer lock: a kernel file lock, with a note of who holds it for the others to read.

The kernel drops the lock when its owner dies, however it dies, so a dead owner's lock needs no clean-up and no
guessing by process id. The note is only for the message: it may outlive its writer.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import StoreError, StoreLocked, StoreReadOnly

_held: set[int] = set()


def _close_inherited() -> None:
    """A forked child must not keep its parent's lock alive; closing its copy leaves the parent's lock alone."""
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


@dataclass(frozen=True)
class LockOwner:
    """Who holds a lock; `since` is seconds since the epoch."""

    pid: int
    host: str
    since: float

    def __str__(self) -> str:
        began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid} on {self.host} (since {began})"


class WriterLock:
    """An exclusive lock on one file, held from `acquire` to `release` or to the end of the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Take the lock at once.

        Raises:
            StoreLocked: a living process, or another handle in this one, holds it.
            StoreReadOnly: the lock file cannot be written.
        """
        if self._descriptor is not None:
            return
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StoreReadOnly(
                f"cannot write to the store at {self._path.parent}: {error.strerror}; "
                "make the folder writable or choose another with --store"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise StoreLocked(
                f"the store at {self._path.parent} is being written by {self._owner_text()}; wait until it has finished"
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise StoreError(f"the file system of {self._path.parent} cannot lock files: {error.strerror}") from error
        self._descriptor = descriptor
        _held.add(descriptor)
        self._sign(descriptor)

    def check(self) -> None:
        """Nothing: unlike a lease, a lock that the kernel keeps cannot be lost."""

    def release(self) -> None:
        """Give the lock back; does nothing where it is not held."""
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        if descriptor in _held:
            _held.discard(descriptor)
            # Unlocking first also frees the lock where a child is just being forked and still has its copy.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def owner(self) -> LockOwner | None:
        """The last one to have taken the lock, or None where the note cannot be read."""
        try:
            return LockOwner(**json.loads(self._path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def _owner_text(self) -> str:
        return str(self.owner() or "another process")

    def _sign(self, descriptor: int) -> None:
        note = json.dumps(asdict(LockOwner(os.getpid(), socket.gethostname(), time.time()))).encode()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, note, 0)
        except OSError:
            # A full disk must not stop a run that may be about to free space; the lock itself is held.
            return
