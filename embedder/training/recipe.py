"""Recipes: one YAML file a step or training, read into a frozen dataclass; an unknown key is an error.

A file that names no `step` is a training of one model (`training_recipe.TrainRecipe`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import yaml

from .settings import RecipeError, build
from .training_recipe import TrainRecipe


@dataclass(frozen=True)
class TokenizerRecipe:
    """Train a byte-level BPE tokenizer on the texts and pairs."""

    step: ClassVar[str] = "tokenizer"
    seed: int = 0
    vocab_size: int = 16_384
    reserved_tokens: int = 12
    sources: dict[str, int] = dataclasses.field(default_factory=lambda: dict[str, int]())
    lowercase: bool = False


@dataclass(frozen=True)
class PairsRecipe:
    """Collect supervised and natural pairs, drop what overlaps test texts, hold out a development slice."""

    step: ClassVar[str] = "pairs"
    seed: int = 0
    sources: dict[str, int] = dataclasses.field(default_factory=lambda: dict[str, int]())
    dev: dict[str, int] = dataclasses.field(default_factory=lambda: dict[str, int]())
    test_sets: list[str] = dataclasses.field(default_factory=lambda: list[str]())
    overlap_ngram: int = 8
    chunk_chars: int = 800
    query_tokens: int = 48
    passage_tokens: int = 160


@dataclass(frozen=True)
class TeacherRecipe:
    """Embed a share of the pairs with the teacher and keep the vectors as float16."""

    step: ClassVar[str] = "teacher"
    seed: int = 0
    rows: dict[str, int] = dataclasses.field(default_factory=lambda: dict[str, int]())
    query_chars: int = 240
    passage_chars: int = 500
    max_tokens: int = 128
    shard_rows: int = 2_048
    max_rows: int = 1_000_000


@dataclass(frozen=True)
class TokenTableRecipe:
    """Train the token table alone, as a bag-of-tokens encoder, from the teacher's vectors of the token strings."""

    step: ClassVar[str] = "token-table"
    seed: int = 0
    dims: list[int] = dataclasses.field(default_factory=lambda: [384, 256, 128, 64])
    norm_eps: float = 1.0
    sif: float = 1e-3
    fold_case: bool = True
    batch_pairs: int = 512
    steps: int = 2_000
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    temperature: float = 0.05
    contrastive_weight: float = 1.0
    cosine_weight: float = 1.0
    scores_weight: float = 1.0
    teacher_share: float = 0.5
    passage_tokens: int = 128
    checkpoint_steps: int = 200


@dataclass(frozen=True)
class LmRecipe:
    """Train the decoder as a causal language model on packed text, the token table frozen."""

    step: ClassVar[str] = "lm"
    seed: int = 0
    layers: int = 4
    heads: int = 6
    intermediate: int = 1_024
    max_tokens: int = 512
    rope_theta: float = 10_000.0
    batch_tokens: int = 4_096
    steps: int = 200
    learning_rate: float = 2e-3
    warmup_steps: int = 20
    mask_share: float = 0.0
    checkpoint_steps: int = 50


@dataclass(frozen=True)
class ContrastiveRecipe:
    """Turn the decoder bidirectional and train it on pairs: contrastive plus distillation."""

    step: ClassVar[str] = "contrastive"
    seed: int = 0
    dims: list[int] = dataclasses.field(default_factory=lambda: [384, 256, 128, 64])
    keep_branches: float = 0.0
    branch_std: float = 0.002
    batch_pairs: int = 128
    query_tokens: int = 40
    passage_tokens: int = 96
    steps: int = 400
    learning_rate: float = 1e-3
    table_learning_rate: float = 1e-4
    warmup_steps: int = 20
    temperature: float = 0.05
    contrastive_weight: float = 1.0
    cosine_weight: float = 1.0
    scores_weight: float = 1.0
    teacher_share: float = 0.8
    branch_share: float = 1.0
    checkpoint_steps: int = 25


@dataclass(frozen=True)
class ExportRecipe:
    """Write the trained model as an encoder folder."""

    step: ClassVar[str] = "export"
    seed: int = 0
    folder: str = "embedder/models/decant-mini"
    dtype: str = "float16"


Recipe = (
    TokenizerRecipe
    | PairsRecipe
    | TeacherRecipe
    | TokenTableRecipe
    | LmRecipe
    | ContrastiveRecipe
    | ExportRecipe
    | TrainRecipe
)
STEPS: dict[str, type[Recipe]] = {recipe.step: recipe for recipe in get_args(Recipe)}


@dataclass(frozen=True)
class NamedRecipe:
    """A recipe and what its result folder is called; `.` is the run folder itself."""

    recipe: Recipe
    folder: str


def read_recipes(paths: Sequence[Path], changes: Sequence[str] = ()) -> list[NamedRecipe]:
    """Reads recipe files in the order given; a folder stands for its *.yaml in the order of their names.

    One training alone has the run folder to itself; of several recipes, a training's folder is named like its file.

    Args:
        paths: files and folders.
        changes: `key=value` for every recipe, the value in YAML; dots go deeper (`lora.rank=8`).

    Raises:
        RecipeError: as `read_recipe`, or a folder holds no recipe.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found:
            raise RecipeError(f"{path} holds no *.yaml recipe")
        files += found
    recipes = [read_recipe(file, changes) for file in files]
    alone = len(files) == 1
    return [
        NamedRecipe(recipe, ("." if alone else file.stem) if isinstance(recipe, TrainRecipe) else recipe.step)
        for file, recipe in zip(files, recipes, strict=True)
    ]


def read_recipe(path: Path, changes: Sequence[str] = ()) -> Recipe:
    """Reads one recipe file.

    Raises:
        RecipeError: the file cannot be read, names an unknown step or key, or gives a value of the wrong kind.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values")
    values: dict[str, Any] = dict(raw)
    for change in changes:
        _change(values, change)
    step = values.pop("step", TrainRecipe.step)
    if step not in STEPS:
        raise RecipeError(f"{path}: step {step!r} is unknown; choose one of {', '.join(STEPS)}")
    return build(STEPS[step], values, str(path))


def _change(values: dict[str, Any], change: str) -> None:
    """Puts `key=value` into nested mappings; a number steps into a list (`objectives.0.weight=2`)."""
    key, equals, text = change.partition("=")
    try:
        value = yaml.safe_load(text)
        if not equals or not key:
            raise ValueError("no '='")
        place: Any = values
        *path, last = key.split(".")
        for part in path:
            place = place[int(part)] if isinstance(place, list) else place.setdefault(part, {})
        place[int(last) if isinstance(place, list) else last] = value
    except (ValueError, IndexError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise RecipeError(f"cannot apply {change!r}: write KEY=VALUE with a key of the recipe ({error})") from None
