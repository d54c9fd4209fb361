"""Recipes of what answers: `step: reader`, `writer` or `xc` in a YAML file, run by `decant train` like the others."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ..embedder.training.settings import RecipeError, build
from .reader.recipe import ReaderRecipe
from .writer.recipe import WriterRecipe
from .xc.recipe import XcRecipe

RagRecipe = ReaderRecipe | WriterRecipe | XcRecipe
_STEPS: dict[str, type[ReaderRecipe] | type[WriterRecipe] | type[XcRecipe]] = {
    recipe.step: recipe for recipe in (ReaderRecipe, WriterRecipe, XcRecipe)
}


def rag_recipe(path: Path, changes: Sequence[str] = ()) -> RagRecipe | None:
    """Read a recipe of ours; None for any other file, which the embedder's training knows.

    Args:
        path: a YAML file.
        changes: `key=value`, the value in YAML.

    Raises:
        RecipeError: a key is unknown or missing, or a value of the wrong kind.
    """
    try:
        raw: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return None
    if not isinstance(raw, dict) or raw.get("step") not in _STEPS:
        return None
    values = dict(raw)
    for change in changes:
        key, equals, text = change.partition("=")
        if not equals:
            raise RecipeError(f"cannot apply {change!r}: write KEY=VALUE with a key of the recipe")
        values[key] = yaml.safe_load(text)
    kind = _STEPS[values.pop("step")]
    values = {key: os.path.expandvars(value) if isinstance(value, str) else value for key, value in values.items()}
    return build(kind, values, str(path))


def run_rag_recipe(recipe: RagRecipe, data: Path, folder: Path, device: str | None = None) -> None:
    """Run a recipe, or go on where it stopped; the result is in `folder`/adapter.

    Raises:
        DecantError: what the recipe names cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(recipe, XcRecipe):
        from .xc.training import XcTrainer

        XcTrainer(data, folder, recipe, device).run()
        return
    from ..embedder.encoder import Encoder

    if isinstance(recipe, WriterRecipe):
        from .writer.training import WriterTrainer

        WriterTrainer(Encoder.load(recipe.model or None, device=device), data, folder, recipe).run()
        return
    from .reader.training import Trainer

    Trainer(Encoder.load(recipe.model or None, device=device), data, folder, recipe).run()
