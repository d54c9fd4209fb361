"""Following a store from version to version: the newest one is taken up when somebody asks, and what is known kept."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from .errors import StoreDamaged, lance_errors
from .files import mark_of
from .journal import Journal
from .layout import Layout
from .meta import META_FILE
from .pinned import Tables
from .place import LANCE, Place
from .schema import TABLE
from .snapshot import Snapshot
from .watch import VersionWatch

T = TypeVar("T")


class Follower:
    """The newest version of one store's table. Threads may share it.

    Attributes:
        latest: what was last taken up; None before the first.
    """

    def __init__(self, place: Place, layout: Layout, journal: Journal, version: Callable[[], int]) -> None:
        """Follow a store; `version` asks Lance for the number of its newest version."""
        self.tables = Tables(place.tables)
        self.latest: Snapshot | None = None
        self._place, self._layout, self._version = place, layout, version
        self._watch = VersionWatch(place.folder / LANCE / f"{TABLE}.lance")
        self._journal = journal
        self._described = ""
        self._guard = threading.RLock()

    def snapshot(self) -> Snapshot:
        """The newest version; the same object as long as nobody commits."""
        with self._guard:
            if self.latest is not None and self._journal.is_still(self.latest.version):
                return self.latest
            if not self._place.remote:
                self._watch.version(self._take_up)
            elif self.latest is None or self._version() != self.latest.version:
                self._take_up()
            assert self.latest is not None, "taken up the first time"
            return self.latest

    def read(self, run: Callable[[Snapshot], T], snapshot: Callable[[], Snapshot]) -> T:
        """Call `run` with what `snapshot` gives; again with a newer one if a writer's clean-up removed its files."""
        now = snapshot()
        while True:
            try:
                return run(now)
            except StoreDamaged as error:
                newest = snapshot()
                if newest.version == now.version:
                    self._forget(now)
                    newest = snapshot()
                if newest.version == now.version and not now.by_journal:
                    if lost := now.unreadable_indexes():
                        raise StoreDamaged(
                            f"the store at {self._place} cannot read its index over {', '.join(lost)}: run decant "
                            "index on it once, which makes that anew from what is stored"
                        ) from error
                    raise
                now = newest

    def _take_up(self) -> int:
        """Make the newest version the latest, and return its number."""
        # Where searches ask Lance anyway (by words, under filters), all is asked at once.
        if self.latest is not None and not self.latest.asked:
            found = self._follow_journal(self.latest)
            if found is not None:
                self.latest = found
                return found.version
        described = self._description()  # before the version is known; compared after the next one is
        tried = 0
        while True:
            try:
                with lance_errors(self._place):
                    table = self.tables.newest(TABLE)
                if self.latest is None or self.latest.version != table.version:
                    follows = bool(self._described) and self._described == self._description()
                    self.latest = Snapshot.read(table, self._place, self._layout, self.latest, follows=follows)
                    self._described = described
                return table.version
            except StoreDamaged:
                newest = self._version()
                if newest == tried:
                    raise
                tried = newest  # a writer's clean-up was faster

    def _follow_journal(self, latest: Snapshot) -> Snapshot | None:
        """The newest version by the commits that led to it; None where these are not known."""
        newest = self._watch.newest()
        entries = self._journal.since(latest.version, newest)
        return latest.following(entries, newest, lambda: self.tables.at(TABLE, newest)) if entries else None

    def _forget(self, snapshot: Snapshot) -> None:
        """Have Lance asked for everything anew, where a snapshot's files are gone or damaged."""
        with self._guard:
            if self.latest is snapshot:
                self.latest = None
                self._watch.forget()

    def _description(self) -> str:
        """What `store.json` looks like: going back to an older version writes it anew. Not asked of a bucket."""
        return "" if self._place.remote else mark_of(self._place.folder / META_FILE)
