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
    """Train a byte-level BPE tokenizer on the texts and pairs, or take the teacher's, without its unused entries."""

    step: ClassVar[str] = "tokenizer"
    seed: int = 0
    vocab_size: int = 16_384
    reserved_tokens: int = 12
    sources: dict[str, int] = dataclasses.field(default_factory=lambda: dict[str, int]())
    lowercase: bool = False
    of_teacher: bool = False


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
class InheritRecipe:
    """Turn the teacher's BERT layers into a Llama's, by regressions on so many tokens of the pairs."""

    step: ClassVar[str] = "inherit"
    seed: int = 0
    intermediate: int = 1_024
    max_tokens: int = 512
    rope_theta: float = 10_000.0
    fit_tokens: int = 150_000
    fit_limit: int = 160
    ridge: float = 1e-3


@dataclass(frozen=True)
class DistilRecipe:
    """Train the student that inherited its teacher's layers: states, text vectors and in-batch scores.

    `passage_tokens` says how often a batch's passages are cut to which length.
    """

    step: ClassVar[str] = "distil"
    seed: int = 0
    dims: list[int] = dataclasses.field(default_factory=lambda: [384, 256, 128, 64])
    batch_tokens: int = 6_000
    neighbours: int = 16
    flatten: float = 0.75
    passage_tokens: dict[int, float] = dataclasses.field(default_factory=lambda: {128: 0.8, 256: 0.15, 512: 0.05})
    steps: int = 1_500
    learning_rate: float = 1e-4
    matrix_learning_rate: float = 3e-3
    warmup_steps: int = 50
    states_weight: float = 1.0
    vectors_weight: float = 1.0
    scores_weight: float = 1.0
    temperature: float = 0.05
    checkpoint_steps: int = 50


@dataclass(frozen=True)
class TermsRecipe:
    """Train a sparse head on the finished encoder, which stays as it is.

    `gain` is the logit of a token's own term at the start, before its bias; `rarity` times the square root of a term's
    inverse document frequency its weight.
    """

    step: ClassVar[str] = "terms"
    seed: int = 0
    fit_tokens: int = 60_000
    fit_limit: int = 160
    ridge: float = 0.01
    gain: float = 20.0
    rarity: float = 0.5
    batch_tokens: int = 6_000
    passage_tokens: dict[int, float] = dataclasses.field(default_factory=lambda: {128: 1.0})
    sampled_terms: int = 1_000
    flops: float = 1e-3
    flops_warmup_steps: int = 100
    steps: int = 600
    learning_rate: float = 1e-3
    terms_learning_rate: float = 5e-3
    warmup_steps: int = 20
    checkpoint_steps: int = 50


@dataclass(frozen=True)
class ExportRecipe:
    """Write the trained model as an encoder folder."""

    step: ClassVar[str] = "export"
    seed: int = 0
    folder: str = "embedder/models/decant-mini"
    dtype: str = "float16"


Recipe = TokenizerRecipe | PairsRecipe | InheritRecipe | DistilRecipe | TermsRecipe | ExportRecipe | TrainRecipe
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
