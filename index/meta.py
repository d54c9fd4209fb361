"""`store.json`: what a store is, beside its tables."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from .errors import StoreDamaged, StoreMismatch, StoreVersionError
from .layout import Layout
from .place import Place

META_FILE = "store.json"
META_SCRATCH = META_FILE + ".new"
"""Where the next description is written before it takes the old one's place; a crash can leave it behind."""
STORE_FORMAT = "decant-store"
# No model has so wide a vector or so many terms.
MOST = 1 << 24


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

    def require_fingerprint(self, fingerprint: str, model: str, place: object) -> None:
        """Raise `StoreMismatch` unless the encoder is the one that made the store."""
        if fingerprint != self.fingerprint:
            raise StoreMismatch(
                f"the store at {place} was made by {_name(self.model, self.fingerprint)}, not by "
                f"{_name(model, fingerprint)}: use that model, or index into another folder with --store"
            )


def read_meta(place: Place, *, newest: int) -> StoreMeta | None:
    """The store's description, or None where the place holds none.

    Raises:
        StoreDamaged: the file is there and makes no sense.
        StoreVersionError: the schema is newer than `newest`.
    """
    try:
        text = place.read(META_FILE)
        if text is None:
            return None
        raw = json.loads(text)
        if raw.pop("format") != STORE_FORMAT:
            raise ValueError("it describes something else")
        if raw["schema"] <= newest:
            _require_sense(raw)
            return StoreMeta(**raw)
        schema = int(raw["schema"])
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreDamaged(
            f"{place}/{META_FILE} cannot be read ({error}): restore it from a backup, or index into a new folder"
        ) from error
    raise StoreVersionError(
        f"the store at {place} has schema {schema}, this version of Decant reads up to {newest}: upgrade decant"
    )


def write_meta(place: Place, meta: StoreMeta) -> None:
    """Write `store.json` so that a crash leaves either the old file or the new one."""
    place.write(META_FILE, json.dumps({"format": STORE_FORMAT, **asdict(meta)}, indent=2) + "\n")


def _require_sense(raw: dict[str, Any]) -> None:
    """Raise ValueError where somebody has edited a fact into what it cannot be."""
    least = {"schema": 0, "dimension": 1, "terms": 0, "router": 0}
    for name, value in raw.items():
        if name not in least and not isinstance(value, str):
            raise ValueError(f"{name} is {value!r}, no text")
        if name in least and (type(value) is not int or not least[name] <= value <= MOST):
            raise ValueError(f"{name} is {value!r}, no number from {least[name]} to {MOST:,}")


def _name(model: str, fingerprint: str) -> str:
    return f"{model} ({fingerprint[:12]})" if model else f"the model {fingerprint[:12]}"
