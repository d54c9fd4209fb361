"""The distil step: the student that inherited its teacher's layers learns to give the teacher's states and scores.

Both read the same tokens, so that the loss compares state with state (as TinyBERT does, Jiao et al. 2020,
arXiv 1909.10351; here on the last layer), besides text vector with text vector, and the in-batch scores of every
Matryoshka prefix with those of the teacher's whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM

from .losses import cosine_distance, prefixes, score_divergence
from .pair_tokens import PairTokens
from .pairs import PairSet
from .recipe import DistilRecipe
from .run import Progress, Schedule, StepResult, train
from .states import hidden_states, text_means
from .teacher import TokenTeacher


def train_distil(
    model: LlamaForCausalLM,
    teacher: TokenTeacher,
    axes: Tensor,
    pairs: PairSet,
    recipe: DistilRecipe,
    folder: Path,
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Trains `model` in place; text vectors are its mean states on `axes`, (D, D), and cut to the recipe's widths.

    Raises:
        TrainingError: as `run.train`.
    """
    batches = PairTokens(
        pairs, recipe.seed, recipe.batch_tokens, recipe.passage_tokens, recipe.neighbours, recipe.flatten
    )

    def forward(step: int) -> StepResult:
        texts, count = batches[step]
        texts = texts.to(model.device)
        ours, theirs = hidden_states(model, texts), teacher.states(texts)
        losses = {
            "states": recipe.states_weight * cosine_distance(ours, theirs),
            **_text_losses(text_means(ours, texts) @ axes.T, text_means(theirs, texts) @ axes.T, count, recipe),
        }
        total = torch.stack(list(losses.values())).sum()
        return StepResult(total, len(texts.input_ids), {name: loss.item() for name, loss in losses.items()})

    model.train()
    table = model.get_input_embeddings().weight
    matrices = [p for p in model.parameters() if p.ndim == 2 and p is not table]
    others = [p for p in model.parameters() if p.ndim != 2 or p is table]
    # Inherited weights lie in a narrow valley: steps of one size for every coordinate, AdamW's, soon climb out of it.
    train(
        model,
        [{"params": others, "lr": recipe.learning_rate}],
        forward,
        Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps),
        folder,
        matrices=[{"params": matrices, "lr": recipe.matrix_learning_rate}],
        report=report,
    )
    model.eval()


def _text_losses(ours: Tensor, theirs: Tensor, count: int, recipe: DistilRecipe) -> dict[str, Tensor]:
    whole = F.normalize(theirs, dim=1)
    wanted = whole[:count], whole[count:]
    scores = [
        score_divergence((unit[:count], unit[count:]), wanted, recipe.temperature)
        for unit in prefixes(ours, recipe.dims)
    ]
    return {
        "vectors": recipe.vectors_weight * cosine_distance(ours, theirs),
        "scores": recipe.scores_weight * torch.stack(scores).mean(),
    }
