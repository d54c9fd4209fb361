"""The one-writer lock of a store on object storage: an object that is made, renewed and taken over conditionally.

There is no kernel there that would drop a dead owner's lock, so this one is a lease. It is made with If-None-Match, so
that of two writers one is refused, and renewed in the background with If-Match, so that nobody writes over a lease
that is no longer theirs. One that was not renewed for `EXPIRES` seconds, by the storage's own clock, is taken over,
again with If-Match. Should its owner only have slept, its next write is refused; and if that sleep falls between that
check and the commit, Lance's commits are conditional as well: both are kept, or the later one fails.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from .errors import StoreError, StoreLocked
from .lock import LockOwner
from .place import Place, storage_errors

RENEW_SECONDS = 15.0
EXPIRES = 90.0


class Lease:
    """A lease on one object, held from `acquire` to `release` or until it was not renewed for too long."""

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name
        self._tag: str | None = None
        self._renewed = 0.0
        self._since = 0.0
        # Two handles of one process in one second would otherwise write the same note, and have the same tag.
        self._mark = secrets.token_hex(8)
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._renewer: threading.Thread | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lease."""
        return self._tag is not None

    def acquire(self) -> None:
        """Take the lease at once.

        Raises:
            StoreLocked: another writer holds it and has renewed it lately.
            StoreError: the storage cannot be reached, or cannot write conditionally.
        """
        if self.held:
            return
        self._since = time.time()
        tag = self._put("create")
        if tag is None:
            tag = self._taken_over()
        with self._guard:
            self._tag, self._renewed = tag, time.monotonic()
        self._stop.clear()
        self._renewer = threading.Thread(target=self._keep, name="decant-lease", daemon=True)
        self._renewer.start()

    def check(self) -> None:
        """Refuse to write under a lease that others may have taken over; call it before every commit.

        Raises:
            StoreLocked: it was lost, or could not be renewed for too long.
        """
        with self._guard:
            lost = self._tag is None or time.monotonic() - self._renewed > EXPIRES - RENEW_SECONDS
        if lost:
            raise StoreLocked(f"the writer's lease on {self._place} was lost: run the command again")

    def release(self) -> None:
        """Give the lease back; does nothing where it is not held."""
        self._stop.set()
        renewer, self._renewer = self._renewer, None
        if renewer is not None:
            renewer.join()
        with self._guard:
            tag, self._tag = self._tag, None
        # Deleting is not conditional everywhere; a lease marked as given back is, and is taken over at once.
        if tag is not None:
            self._put({"e_tag": tag}, given_back=True)

    def owner(self) -> LockOwner | None:
        """Who wrote the lease last, or None where it cannot be read."""
        try:
            note = json.loads(self._place.read(self._name) or "")
            return LockOwner(int(note["pid"]), str(note["host"]), float(note["since"]))
        except (StoreError, ValueError, KeyError, TypeError):
            return None

    def _taken_over(self) -> str:
        import obstore

        with storage_errors(str(self._place)):
            found = obstore.get(self._place.objects, self._name)
            note: dict[str, Any] = json.loads(bytes(found.bytes()) or b"{}")
        age = (datetime.now(UTC) - found.meta["last_modified"]).total_seconds()
        if note.get("given_back") or age > EXPIRES:
            tag = self._put({"e_tag": str(found.meta["e_tag"])})
            if tag is not None:
                return tag
        raise StoreLocked(
            f"the store at {self._place} is being written by {self.owner() or 'another process'}; wait until it has "
            f"finished, or {EXPIRES:.0f} s if it was killed"
        )

    def _keep(self) -> None:
        while not self._stop.wait(RENEW_SECONDS):
            with self._guard:
                tag = self._tag
            if tag is None:
                return
            try:
                fresh = self._put({"e_tag": tag})
            except StoreError:
                continue  # the storage was away for a moment; `check` knows how long ago the last renewal was
            with self._guard:
                self._tag = fresh
                if fresh is not None:
                    self._renewed = time.monotonic()

    def _put(self, mode: str | Mapping[str, str], *, given_back: bool = False) -> str | None:
        """Write the note on a condition and return its tag; None where the condition does not hold."""
        import obstore
        from obstore.exceptions import AlreadyExistsError, NotSupportedError, PreconditionError

        owner = LockOwner(os.getpid(), socket.gethostname(), self._since)
        note = asdict(owner) | {"mark": self._mark, "renewed": time.time(), "given_back": given_back}
        with storage_errors(str(self._place)):
            try:
                done = obstore.put(self._place.objects, self._name, json.dumps(note).encode(), mode=mode)  # type: ignore[arg-type]
            except (AlreadyExistsError, PreconditionError, FileNotFoundError):
                return None
            except NotSupportedError as error:
                raise StoreError(
                    f"the storage of {self._place} cannot write on a condition, so two writers could not be kept "
                    "apart: use one that knows If-None-Match and If-Match"
                ) from error
        return str(done["e_tag"])
