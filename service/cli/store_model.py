"""Which model to load for a store, read from its description before anything heavy is imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from .problem import Problem, in_bucket


def model_of(store: Path, model: str | None) -> str | None:
    """The model asked for, or else the one that made the store; None for the one that ships with Decant.

    Raises:
        Problem: the store's model is not where it was.
    """
    if model is not None:
        return model
    try:
        facts: Any = json.loads(_description(store))
        path = str(facts.get("model_path") or "")
    except (OSError, ValueError, AttributeError):
        return None  # opening the store says what is wrong with it
    if path and not Path(path).exists():
        raise Problem(f"the store at {store} was made by the model at {path}, which is gone: name it with --model")
    return path or None


def _description(store: Path) -> str:
    if not in_bucket(store):
        return (store / "store.json").read_text(encoding="utf-8")
    from ...index.place import place_of

    return place_of(store).read("store.json") or ""
