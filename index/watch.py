"""Whether anybody has committed since one last asked, without asking Lance: its folder of versions is listed.

A commit puts a file into that folder, and asking Lance means listing it, too, some 0.1 ms away behind its runtime.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

VERSIONS = "_versions"


class VersionWatch:
    """The newest version of the table in one folder on this machine; every call looks. Not for threads to share."""

    def __init__(self, table: Path) -> None:
        self._folder = table / VERSIONS
        self._listed: list[str] = []
        self._version = 0

    def version(self, ask: Callable[[], int]) -> int:
        """What `ask` says, or said when the folder held the same files as now."""
        try:
            listed = os.listdir(self._folder)
        except OSError:
            return ask()
        if not self._listed or listed != self._listed:
            # Listed before it is asked: a commit between the two is seen again by the next call, not missed.
            self._version, self._listed = ask(), listed
        return self._version
