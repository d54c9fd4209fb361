"""Recipes: one YAML file a step, read into a frozen dataclass; a key that the step does not know is an error."""

from __future__ import annotations

import dataclasses
import types
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import yaml

from ..errors import DecantError


class RecipeError(DecantError):
    """A recipe that names an unknown step or key, or gives a value of the wrong kind."""


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


Recipe = TokenizerRecipe | PairsRecipe | TeacherRecipe | TokenTableRecipe | LmRecipe | ContrastiveRecipe | ExportRecipe
STEPS: dict[str, type[Recipe]] = {recipe.step: recipe for recipe in get_args(Recipe)}


def read_recipe(path: Path) -> Recipe:
    """Reads one recipe file.

    Raises:
        RecipeError: the file cannot be read, names an unknown step or key, or gives a value of the wrong kind.
    """
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise RecipeError(f"{path}: cannot be read as YAML ({str(error).splitlines()[0]})") from error
    if not isinstance(raw, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of keys to values, with a 'step' among them")
    values: dict[str, Any] = dict(raw)
    step = values.pop("step", None)
    if step not in STEPS:
        raise RecipeError(f"{path}: step {step!r} is unknown; choose one of {', '.join(STEPS)}")
    return build_recipe(STEPS[step], values, str(path))


def build_recipe(kind: type[Recipe], values: dict[str, Any], where: str) -> Recipe:
    """Builds a recipe from plain values, refusing unknown keys and wrong kinds.

    Raises:
        RecipeError: see above; the message starts with `where`.
    """
    hints = {f.name: get_type_hints(kind)[f.name] for f in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in hints:
            raise RecipeError(f"{where}: {kind.step} has no key {key!r}; known keys are {', '.join(hints)}")
        if not _fits(value, hints[key]):
            raise RecipeError(f"{where}: {key} must be {_spelled(hints[key])}, not {value!r}")
    return kind(**values)


def _fits(value: object, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in get_args(hint))
    if origin is list:
        return isinstance(value, list) and all(_fits(item, get_args(hint)[0]) for item in value)
    if origin is dict:
        key_hint, value_hint = get_args(hint)
        return isinstance(value, dict) and all(
            _fits(key, key_hint) and _fits(item, value_hint) for key, item in value.items()
        )
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _spelled(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
