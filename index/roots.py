"""The folders a store has been filled from, so that a file keeps its id however its path is spelled.

A document's id is `<root name>/<path below the root>`; the names are kept in the store's folder, each with the path of
its folder relative to the store, so that store and documents may move together (from a bucket, the whole path).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..embedder.errors import InputError
from .errors import StoreDamaged
from .place import Place
from .walk import is_text

ROOTS_FILE = "roots.json"


@dataclass(frozen=True)
class Part:
    """A root, or a folder or file below one, that a run covers.

    Attributes:
        path: where it is, as given by the user; a known root's folder may have vanished.
        doc_id: what the ids of its documents begin with.
        leave_out: absolute folders below that are roots of their own.
    """

    path: Path
    doc_id: str
    leave_out: frozenset[Path] = frozenset()


def load_roots(place: Place) -> dict[str, Path]:
    """Return the absolute folder of each root name.

    Raises:
        StoreDamaged: the file is there and makes no sense.
    """
    try:
        text = place.read(ROOTS_FILE)
        raw: Any = {"roots": {}} if text is None else json.loads(text)
        base = place.folder.resolve()
        return {str(name): Path(os.path.normpath(base / str(folder))) for name, folder in raw["roots"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreDamaged(
            f"{place}/{ROOTS_FILE} cannot be read ({error}): restore it, or index into a new folder"
        ) from error


def save_roots(place: Place, roots: Mapping[str, Path]) -> None:
    """Write the root names durably, in place of those written before; from a bucket nothing is relative."""
    base = place.folder.resolve()
    named = {name: str(folder) if place.remote else os.path.relpath(folder, base) for name, folder in roots.items()}
    place.write(ROOTS_FILE, json.dumps({"format": 1, "roots": named}, indent=2) + "\n")


def assign(paths: Iterable[Path], known: Mapping[str, Path]) -> tuple[list[Part], dict[str, Path]]:
    """Return what to walk for `paths`, and the roots known afterwards.

    A path inside a known root is a part of it; another folder becomes a root named after itself, or after as many of
    its parents as it takes to tell it from the others; a file stands in the root of its folder. Known roots inside a
    given folder keep their ids and are walked along with it.

    Raises:
        InputError: nothing is at a path; whatever was indexed from there stays.
    """
    roots = dict(known)
    targets = {_resolved(path): path for path in paths}
    parts: dict[str, Part] = {}
    for target in sorted(targets, key=lambda t: (len(t.parts), t)):
        home = target if target.is_dir() else target.parent
        if not any(home.is_relative_to(folder) for folder in roots.values()):
            roots[_new_name(home, roots)] = home
        inner = {name: folder for name, folder in roots.items() if target in folder.parents}
        outer = max((i for i in roots.items() if target.is_relative_to(i[1])), key=lambda item: len(item[1].parts))
        for name, folder in [(_join(outer[0], target.relative_to(outer[1])), target), *inner.items()]:
            below = frozenset(f for f in roots.values() if folder in f.parents)
            shown = targets[target] / folder.relative_to(target)
            if not any(name == p or name.startswith(f"{p}/") for p in parts):
                parts[name] = Part(shown, name, below)
    return list(parts.values()), roots


def _resolved(path: Path) -> Path:
    try:
        return path.resolve(strict=True)
    except (OSError, RuntimeError):
        raise InputError(f"nothing can be read at {path}: check the path; what was indexed from it stays") from None


def _join(root: str, below: Path) -> str:
    return "/".join((root, *below.parts))


def _new_name(folder: Path, roots: Mapping[str, Path]) -> str:
    """Return the shortest tail of the path that neither is, begins nor continues another root's name."""
    names = folder.parts[1:] or ("root",)
    if not is_text(str(folder)):
        raise InputError(f"the name of {os.fsencode(folder)!r} is not UTF-8: rename the folder")
    for length in range(1, len(names) + 1):
        name = "/".join(names[-length:])
        if not any(f"{name}/".startswith(f"{other}/") or f"{other}/".startswith(f"{name}/") for other in roots):
            return name
    raise InputError(f"{folder} cannot be told from the roots {', '.join(roots)}: index it into another store")
