"""Whether anybody has committed since one last asked, without asking Lance: its folder of versions is listed.

A commit puts a file into that folder, and asking Lance means listing it, too, some 0.1 ms away behind its runtime.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path

VERSIONS = "_versions"
MANIFEST = ".manifest"
# Lance numbers manifests downwards from here, so that the newest comes first; those of old stores upwards.
_LAST = (1 << 64) - 1


class VersionWatch:
    """The newest version of the table in one folder on this machine; every call looks. Not for threads to share."""

    def __init__(self, table: Path) -> None:
        self._folder = table / VERSIONS
        self._listed: list[str] = []
        self._version = 0

    def forget(self) -> None:
        """Ask again the next time, whatever is listed then."""
        self._listed = []

    def newest(self) -> int:
        """The newest version by the names of the files; 0 where there are none."""
        try:
            return max(_numbers(os.listdir(self._folder)), default=0)
        except OSError:
            return 0

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


def manifest_of(table: Path, version: int) -> Path | None:
    """The file that makes a version of a table what it is; None where there is none."""
    names = (f"{_LAST - version:020d}{MANIFEST}", f"{version}{MANIFEST}")
    return next((path for name in names if (path := table / VERSIONS / name).exists()), None)


def _numbers(names: Iterable[str]) -> list[int]:
    stems = [name.removesuffix(MANIFEST) for name in names if name.endswith(MANIFEST)]
    numbers = [int(stem) for stem in stems if stem.isdigit()]
    return [_LAST - number if number > _LAST // 2 else number for number in numbers]
