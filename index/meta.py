"""`store.json`: what a store is, beside its tables; and atomic, durable replacement of small files."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from .errors import StoreDamaged, StoreMismatch, StoreVersionError
from .layout import Layout

META_FILE = "store.json"
META_SCRATCH = META_FILE + ".new"
"""Where the next description is written before it takes the old one's place; a crash can leave it behind."""
STORE_FORMAT = "decant-store"


@dataclass(frozen=True)
class StoreMeta:
    """The facts that decide whether a store can be used.

    Attributes:
        schema: version of the tables' layout.
        fingerprint: of the encoder that made every vector in the store.
        dimension: width of those vectors.
        model: what a person calls the encoder; for messages only.
        created: UTC, ISO 8601.
        terms: width of the sparse vectors, 0 for none.
        router: width of the router vectors, 0 for none.
        model_path: where the encoder was loaded from, so that a search needs no `--model`; empty for the default.
    """

    schema: int
    fingerprint: str
    dimension: int
    model: str = ""
    created: str = ""
    terms: int = 0
    router: int = 0
    model_path: str = ""

    @property
    def layout(self) -> Layout:
        """What every row holds."""
        return Layout(self.dimension, self.terms, self.router)

    def require_fingerprint(self, fingerprint: str, model: str, root: Path) -> None:
        """Raise `StoreMismatch` unless the encoder is the one that made the store."""
        if fingerprint != self.fingerprint:
            raise StoreMismatch(
                f"the store at {root} was made by {_name(self.model, self.fingerprint)}, not by "
                f"{_name(model, fingerprint)}: use that model, or index into another folder with --store"
            )


def read_meta(root: Path, *, newest: int) -> StoreMeta | None:
    """The store's description, or None where the folder holds none.

    Raises:
        StoreDamaged: the file is there and makes no sense.
        StoreVersionError: the schema is newer than `newest`.
    """
    path = root / META_FILE
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw.pop("format") != STORE_FORMAT:
            raise ValueError("it describes something else")
        if raw["schema"] <= newest:
            return StoreMeta(**raw)
        schema = int(raw["schema"])
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreDamaged(
            f"{path} cannot be read ({error}): restore it from a backup, or index into a new folder"
        ) from error
    raise StoreVersionError(
        f"the store at {root} has schema {schema}, this version of Decant reads up to {newest}: upgrade decant"
    )


def write_meta(root: Path, meta: StoreMeta) -> None:
    """Write `store.json` so that a crash leaves either the old file or the new one."""
    write_atomic(root / META_FILE, json.dumps({"format": STORE_FORMAT, **asdict(meta)}, indent=2) + "\n")


def write_atomic(path: Path, text: str) -> None:
    """Replace a small text file at once and durably."""
    scratch = path.with_name(path.name + ".new")
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Make created, renamed and removed entries of a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(model: str, fingerprint: str) -> str:
    return f"{model} ({fingerprint[:12]})" if model else f"the model {fingerprint[:12]}"
