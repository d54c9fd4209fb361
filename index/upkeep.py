"""What keeps a table small and its indexes up to date: after many small commits, after a write, and on demand.

A table of many small fragments costs the writer and every reader: on 20,000 passages a document was replaced in 21 ms
on a compacted table and in 74 behind 400 small commits. Compacting rewrites the table, in 0.2 s there. So that neither
outweighs the other, a run of small commits is compacted each time they are as many as the square root of the rows.
"""

from __future__ import annotations

import logging
import math
from datetime import datetime, timedelta
from typing import Any, cast

from lancedb.table import Table

from . import lance_ann
from .identity import create_identity_index, keep_identity_index
from .journal import Journal
from .lexical import create_text_index, unindexed_rows
from .pinned import PinnedTable

_log = logging.getLogger(__name__)
# Versions that queries may be in the middle of are spared; a query whose version went is run again on the newest.
KEEP_VERSIONS = timedelta(seconds=20)
# Rows not yet in the full-text index are searched one by one (some 0.04 ms each), and bringing it up to date rewrites
# a good part of the store: that is done when the rows are this many and this share of all, or the files too many.
UNINDEXED_ROWS = 64
UNINDEXED_SHARE = 1 / 500
SMALL_FRAGMENTS = 100
FEWEST_COMMITS, MOST_COMMITS = 100, 500


class Upkeep:
    """Upkeep of one table by its one writer."""

    def __init__(self, table: Table, journal: Journal) -> None:
        self._table, self._journal = table, journal
        self._commits = 0

    def mend(self, now: PinnedTable) -> None:
        """Make indexes that cannot be read anew from the rows: a write that looks for a document would fail, too."""
        for column in now.unreadable():
            _log.warning("the index over %s cannot be read: it is made anew", column)
            if column == "words":
                create_text_index(self._table)
            elif column == "doc_id":
                create_identity_index(self._table)
            else:
                lance_ann.build(self._table, lance_ann.kind_called(now.indexes()[column]))

    def count_commit(self) -> None:
        """To be called behind every small commit: compacts where many have come together."""
        self._commits += 1
        if self._commits >= FEWEST_COMMITS and self._commits >= min(MOST_COMMITS, math.isqrt(self._table.count_rows())):
            self.tidy(KEEP_VERSIONS)

    def after_writing(self) -> None:
        """Tidy up where the rows that no index knows are many, or the files are."""
        unindexed = unindexed_rows(self._table)
        if not unindexed:
            return
        stats = cast(Any, self._table.stats())
        many = unindexed >= max(UNINDEXED_ROWS, UNINDEXED_SHARE * stats["num_rows"])
        if many or stats["fragment_stats"]["num_small_fragments"] >= SMALL_FRAGMENTS:
            self.tidy(KEEP_VERSIONS)

    def tidy(self, keep: timedelta, *, delete_unverified: bool = False) -> None:
        """Compact, bring indexes up to date, and clean up; no version since the oldest named one is removed.

        Args:
            keep: how old a version must be to be removed.
            delete_unverified: whether files of commits that never finished are removed, too.
        """
        named = {int(tag["version"]) for tag in cast(Any, self._table).tags.list().values()}
        if named:
            made = [v["timestamp"] for v in self._table.list_versions() if int(v["version"]) in named]
            keep = max(keep, datetime.now(made[0].tzinfo) - min(made) + timedelta(minutes=1))
        with self._journal.still(self._table.version):
            keep_identity_index(self._table)
            self._table.optimize(cleanup_older_than=keep, delete_unverified=delete_unverified)
        self._commits = 0
