"""Mistakes that a command finds before it loads anything, and so can report at once."""

from __future__ import annotations

from pathlib import Path

import typer

from .exit_codes import ExitCode


class Problem(typer.TyperException):
    """A mistake of the user's; its message is one line that says what to do."""

    exit_code = ExitCode.ERROR


def in_bucket(store: Path) -> bool:
    """Whether a store is named by an address, whose two slashes a Path folds into one."""
    return str(store).startswith("s3:/")


def require_store(folder: Path) -> None:
    """Raise `Problem` where there is nothing that could be a store."""
    if not in_bucket(folder) and not folder.is_dir():
        raise Problem(f"there is no store at {folder}: make one with decant index PATH --store {folder}")


def require_paths(paths: list[Path]) -> None:
    """Raise `Problem` for the first path where nothing is."""
    for path in paths:
        if not path.exists():
            raise Problem(f"nothing is at {path}: check its name; what was indexed from there before stays")


def require_new(folder: Path) -> None:
    """Raise `Problem` unless `folder` can become a new one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Problem(f"{folder} is not empty: choose a new folder")
