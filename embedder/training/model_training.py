"""One training of one model, as a `TrainRecipe` describes it: everything is checked before the first step."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..encoder import Encoder
from ..errors import ModelError
from ..formats.folder import read_folder, resolve
from ..head import Head
from ..model_config import load_config
from ..plain_values import misfit
from ..spec import SPEC_FORMAT, EncoderSpec, ExampleSearch
from ..tokenization import TextTokenizer
from .data import PairData, TextData, expand, read_pair_data, read_text_data, require_variables
from .mask_token import mask_token_id
from .objectives.clm import Clm
from .objectives.context import Context
from .objectives.contrastive import Contrastive
from .objectives.distil import Distil
from .objectives.infill import Infill
from .objectives.mntp import Mntp
from .objectives.simcse import Simcse
from .objectives.splade import Splade
from .run import Progress, Schedule, StepResult, train
from .scratch import make_decoder
from .settings import RecipeError
from .trainee import Trainee, grouped_parameters, load_lm_head
from .training_recipe import (
    ClmSettings,
    ContrastiveSettings,
    DistilSettings,
    InfillSettings,
    MntpSettings,
    Objective,
    SimcseSettings,
    SpladeSettings,
    TrainRecipe,
)

Task = Callable[[int, float], StepResult]
MODEL_FOLDER = "model"


def train_model(
    recipe: TrainRecipe,
    folder: Path,
    *,
    variables: Mapping[str, str],
    device: str | None = None,
    report: Callable[[Progress], None] | None = None,
) -> Path:
    """Trains, continuing where an earlier start in the same folder stopped, and saves the encoder.

    Args:
        recipe: what to do.
        folder: gets checkpoint.pt, loss.csv, loss.png, model/ and, with LoRA, adapter/.
        variables: fill `$NAME` in the recipe's paths.
        device: torch device; None for the best one here.
        report: called after every step.

    Returns:
        The model folder, which was loaded again and passed the cheap invariants.

    Raises:
        RecipeError: a field of the recipe cannot be honoured by this model or tokenizer.
        DataError: a data file is missing or malformed.
        ModelError: the model cannot be loaded.
        TrainingError: the loss is no longer a number.
    """
    used = {name for settings in recipe.objectives for name in recipe.names_of(settings)}
    made_of = [recipe.decoder.tokenizer, recipe.decoder.experts_of] if recipe.decoder else [recipe.model]
    files = [file for name in used for file in recipe.data[name].files]
    require_variables([*made_of, *files, *([recipe.examples] if recipe.examples else [])], variables)
    pairs, texts = _read_data(recipe, variables)
    base = _base_folder(recipe, folder, variables)
    examples = None if recipe.examples is None else expand(recipe.examples, variables)
    encoder = load_for_training(base, recipe, device, examples)
    trainee = _trainee(recipe, encoder, base)
    context = Context(trainee, pairs, texts, _widths(recipe, encoder), recipe.seed, 0)
    tasks = [
        _task(settings, replace(context, number=number), recipe.names_of(settings))
        for number, settings in enumerate(recipe.objectives)
    ]
    forward = _alternating(recipe.objectives, tasks) if recipe.alternate else _joint(recipe.objectives, tasks)
    schedule = Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps, recipe.schedule)
    groups = grouped_parameters(trainee, recipe.learning_rate, recipe.weight_decay)
    trainee.train()
    train(trainee, groups, forward, schedule, folder, max_grad_norm=recipe.max_grad_norm, report=report)
    out = folder / MODEL_FOLDER
    if not out.exists():
        trainee.save(out, getattr(torch, recipe.saved_dtype))
    Encoder.load(out, device=device, dtype="float32")
    return out


def changed_spec(spec: EncoderSpec, changes: Mapping[str, Any], hidden_size: int) -> EncoderSpec:
    """The spec with a recipe's changes; a latent block's hidden size need not be said.

    Raises:
        RecipeError: naming the key that is unknown or does not fit.
    """
    values = {**json.loads(spec.to_json())["spec"], **changes}
    if isinstance(changes.get("latent"), Mapping):
        values["latent"] = {"hidden_size": hidden_size, **changes["latent"]}
    if wrong := misfit(EncoderSpec, values):
        raise RecipeError(f"encoder.{wrong}")
    try:
        return EncoderSpec.from_json(json.dumps({"format": SPEC_FORMAT, "spec": values}))
    except ModelError as error:
        raise RecipeError(f"encoder: {error}") from error


def load_for_training(folder: Path, recipe: TrainRecipe, device: str | None, examples: Path | None = None) -> Encoder:
    """The encoder in float32 with the recipe's spec; a latent block it did not have gets random weights.

    Raises:
        RecipeError: the spec cannot be, or a Matryoshka width is not below the full one.
    """
    files = read_folder(folder)
    own, hidden_size = files.spec, int((files.config or load_config(files.backbone)).get_text_config().hidden_size)
    spec = _trainable_spec(own, recipe, hidden_size, has_examples=examples is not None)
    loadable = _loadable(spec, own)
    encoder = Encoder.load(folder, device=device, dtype="float32", spec=loadable, examples=examples, verify=False)
    if encoder.backbone.engine != "packed":
        raise RecipeError(
            f"model: {encoder.backbone.config.model_type} does not run on packed batches, as training does"
        )
    encoder.spec = spec
    encoder.text_tokenizer = TextTokenizer(encoder.text_tokenizer.source, spec)
    head = Head(spec, hidden_size)
    head.linears.load_state_dict(encoder.head.linears.state_dict())
    if head.latent is not None:
        if spec.latent == own.latent and encoder.head.latent is not None:
            head.latent.load_state_dict(encoder.head.latent.state_dict())
        else:
            head.latent.initialise(recipe.seed)
    encoder.head = head.to(encoder.backbone.device)
    return encoder


def _trainable_spec(own: EncoderSpec, recipe: TrainRecipe, hidden_size: int, *, has_examples: bool) -> EncoderSpec:
    """The folder's spec with the recipe's changes, where both fit the model and can be trained."""
    spec = changed_spec(own, recipe.encoder, hidden_size)
    if spec.latent and spec.latent.hidden_size != hidden_size:
        raise RecipeError(f"encoder.latent.hidden_size: {spec.latent.hidden_size} is not the model's, {hidden_size}")
    width = spec.dense[-1].out_features if spec.dense else hidden_size
    wrong = next((dim for dim in recipe.dims if dim > width), None)
    if wrong is not None:
        raise RecipeError(f"dims: {wrong} is not between 1 and the model's {width} dimensions")
    if recipe.dims:
        spec = replace(spec, dimensions=tuple(dim for dim in recipe.dims if dim < width))
    if list(spec.dense) != list(own.dense):
        raise RecipeError("encoder.dense: a dense layer cannot be added or changed by a training")
    if spec.standardize or (spec.router and spec.router.calibrated):
        raise RecipeError(
            "model: its calibration would not fit other weights: train first, and calibrate what comes out"
        )
    if has_examples and spec.retrieved_examples is None:
        raise RecipeError(
            "examples: the encoder retrieves none: set `retrieved_examples: {}` and a prompt under encoder"
        )
    if spec.retrieved_examples and spec.retrieved_examples.search is not ExampleSearch.BM25:
        raise RecipeError("encoder.retrieved_examples.search: must be bm25 in a training, which moves the vectors")
    return spec


def _loadable(spec: EncoderSpec, own: EncoderSpec) -> EncoderSpec:
    """The spec without what the folder has no weights for yet."""
    return replace(spec, sparse=None, latent=own.latent if spec.latent == own.latent else None)


def _trainee(recipe: TrainRecipe, encoder: Encoder, base: Path) -> Trainee:
    # New weights (adapters, tokens) come from the recipe's seed.
    torch.manual_seed(recipe.seed)
    predicts = (ClmSettings, MntpSettings, InfillSettings, SpladeSettings)
    for number, settings in enumerate(recipe.objectives):
        if isinstance(settings, ClmSettings | MntpSettings) and settings.mask_token == "add":
            mask_token_id(encoder.text_tokenizer.source, "add", f"objectives[{number}].mask_token")
            encoder.text_tokenizer = TextTokenizer(encoder.text_tokenizer.source, encoder.spec)
    if encoder.text_tokenizer.vocabulary_size > encoder.backbone.embedding_rows:
        encoder.backbone.model.resize_token_embeddings(encoder.text_tokenizer.vocabulary_size, mean_resizing=True)
    needs_head = encoder.spec.sparse is not None or any(isinstance(o, predicts) for o in recipe.objectives)
    lm_head = load_lm_head(encoder, base) if needs_head else None
    trainee = Trainee(encoder, lm_head, bfloat16=recipe.dtype == "bfloat16", lora=recipe.lora)
    if recipe.freeze_embeddings:
        trainee.model.get_input_embeddings().requires_grad_(False)
    if recipe.gradient_checkpointing:
        # transformers is renaming it.
        model = trainee.model
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    return trainee


def _widths(recipe: TrainRecipe, encoder: Encoder) -> Sequence[int]:
    full = encoder.head.full_width
    return [full, *sorted({dim for dim in recipe.dims if dim < full}, reverse=True)]


def _base_folder(recipe: TrainRecipe, folder: Path, variables: Mapping[str, str]) -> Path:
    if recipe.decoder is None:
        return resolve(expand(recipe.model, variables))
    base = folder / "base"
    if not (base / "config.json").is_file():
        dense = resolve(expand(recipe.decoder.experts_of, variables)) if recipe.decoder.experts_of else None
        make_decoder(recipe.decoder, expand(recipe.decoder.tokenizer, variables), recipe.seed, base, dense)
    return base


def _read_data(recipe: TrainRecipe, variables: Mapping[str, str]) -> tuple[dict[str, PairData], dict[str, TextData]]:
    pairs: dict[str, PairData] = {}
    texts: dict[str, TextData] = {}
    for settings in recipe.objectives:
        for name in recipe.names_of(settings):
            if settings.wants == "pairs" and name not in pairs:
                pairs[name] = read_pair_data(name, recipe.data[name], variables)
            elif settings.wants == "texts" and name not in texts:
                texts[name] = read_text_data(name, recipe.data[name], variables)
    return pairs, texts


def _task(settings: Objective, context: Context, names: list[str]) -> Task:
    match settings:
        case ClmSettings():
            return Clm(settings, context, names)
        case MntpSettings():
            return Mntp(settings, context, names)
        case InfillSettings():
            return Infill(settings, context, names)
        case SimcseSettings():
            return Simcse(settings, context, names)
        case ContrastiveSettings():
            return Contrastive(settings, context, names)
        case DistilSettings():
            return Distil(settings, context, names)
        case SpladeSettings():
            return Splade(settings, context, names)


def _joint(objectives: Sequence[Objective], tasks: Sequence[Task]) -> Callable[[int], StepResult]:
    """Every objective in every step; gradients add up."""

    def forward(step: int) -> StepResult:
        results = [task(step, settings.weight) for settings, task in zip(objectives, tasks, strict=True)]
        losses = [settings.weight * result.loss for settings, result in zip(objectives, results, strict=True)]
        parts = {f"{s.kind}{i}": r.loss.item() for i, (s, r) in enumerate(zip(objectives, results, strict=True))}
        return StepResult(torch.stack(losses).sum(), sum(result.tokens for result in results), parts)

    return forward


def _alternating(objectives: Sequence[Objective], tasks: Sequence[Task]) -> Callable[[int], StepResult]:
    """Each objective for its turns, then the next one, round and round."""
    order = [number for number, settings in enumerate(objectives) for _ in range(settings.turns)]

    def forward(step: int) -> StepResult:
        number = order[step % len(order)]
        result = tasks[number](step, objectives[number].weight)
        return replace(result, parts={f"{objectives[number].kind}{number}": result.loss.item()})

    return forward
