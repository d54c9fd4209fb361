"""Generation folders: how files that can be rebuilt are replaced at once, and never trusted unchecked.

    accelerators/dense/manifest.json        which generation is in use, with every file's size and checksum
    accelerators/dense/g-<version>-<hex>/   the files, written and fsynced before the manifest names them

The manifest is replaced atomically, so a crash leaves the old generation or the new one in use and at worst a folder
that nothing names, which the next build removes. A reader that has files of a removed generation open keeps them.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .files import fsync_folder, mark_of, write_atomic

MANIFEST = "manifest.json"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """Which generation is in use and what it holds.

    Attributes:
        generation: the folder's name.
        fingerprint: of the encoder whose vectors it was built from.
        files: name -> [bytes, blake2b hex].
        facts: what the builder recorded: kind, rows, version, parameters.
        stamps: name -> inode, time and size of each file when it was built. Reading two gigabytes, a million passages'
            worth, for their checksums takes seconds at every start.
    """

    generation: str
    fingerprint: str
    files: Mapping[str, tuple[int, str]]
    facts: Mapping[str, Any]
    stamps: Mapping[str, str] = field(default_factory=dict[str, str])


class UnusableGeneration(Exception):
    """Why a generation must not be loaded; never reaches a user as an error, only as the reason for exact search."""


def publish(
    root: Path, version: int, fingerprint: str, facts: Mapping[str, Any], write: Callable[[Path], None]
) -> Manifest:
    """Write a new generation with `write(folder)` and put it in use; older ones are removed."""
    folder = root / f"g-{version:08d}-{secrets.token_hex(4)}"
    folder.mkdir(parents=True)
    try:
        write(folder)
        files = {file.name: _seal(file) for file in sorted(folder.iterdir())}
        fsync_folder(folder)
        fsync_folder(root)
        stamps = {name: mark_of(folder / name) for name in files}
        manifest = Manifest(folder.name, fingerprint, files, facts, stamps)
        write_atomic(root / MANIFEST, json.dumps({"format": FORMAT, **asdict(manifest)}, indent=2) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    sweep(root)
    return manifest


def retire(root: Path) -> None:
    """Put no generation in use and remove all; the writer's lock must be held."""
    (root / MANIFEST).unlink(missing_ok=True)
    sweep(root)


def sweep(root: Path) -> None:
    """Remove generation folders that the manifest does not name; the writer's lock must be held."""
    try:
        manifest = read_manifest(root)
    except UnusableGeneration:
        return
    for folder in root.glob("g-*"):
        if manifest is None or folder.name != manifest.generation:
            shutil.rmtree(folder, ignore_errors=True)


def current(root: Path) -> str:
    """A mark that changes whenever another generation is put in use; cheap enough for every query."""
    return mark_of(root / MANIFEST)


def read_manifest(root: Path) -> Manifest | None:
    """The manifest, or None where nothing was ever built.

    Raises:
        UnusableGeneration: the manifest is there and cannot be read.
    """
    try:
        raw = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
        if raw.pop("format") != FORMAT:
            raise ValueError("its format is not this version's")
        raw["files"] = {name: (int(size), str(digest)) for name, (size, digest) in raw["files"].items()}
        manifest = Manifest(**raw)
        if not (isinstance(manifest.facts, dict) and isinstance(manifest.stamps, dict)):
            raise ValueError("its facts are none")
        if Path(manifest.generation).name != manifest.generation or not manifest.generation.startswith("g-"):
            raise ValueError("it names a folder outside")
        return manifest
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UnusableGeneration(f"its manifest cannot be read ({error})") from error


def verified(root: Path, manifest: Manifest, fingerprint: str, *, trust_stamps: bool = False) -> dict[str, Path]:
    """Paths of the generation's files, each checked against the manifest.

    Args:
        root: the folder of the generations.
        manifest: of the generation in use.
        fingerprint: of the encoder whose vectors are wanted.
        trust_stamps: whether a file that nobody has touched since it was built is believed without reading it.

    Raises:
        UnusableGeneration: a file is missing, altered or of another model.
    """
    if manifest.fingerprint != fingerprint:
        raise UnusableGeneration("it was built from another model's vectors")
    paths: dict[str, Path] = {}
    for name, (size, digest) in manifest.files.items():
        path = root / manifest.generation / Path(name).name
        try:
            untouched = trust_stamps and manifest.stamps.get(name) == mark_of(path)
            if path.stat().st_size != size or not (untouched or _digest(path) == digest):
                raise UnusableGeneration(f"its file {name} is not the one that was built")
        except OSError as error:
            raise UnusableGeneration(f"its file {name} cannot be read ({error.strerror})") from error
        paths[name] = path
    return paths


def _seal(path: Path) -> tuple[int, str]:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path.stat().st_size, _digest(path)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()
