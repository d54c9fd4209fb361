"""The contrastive step: the decoder turned bidirectional and trained on pairs, with distillation."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import LlamaForCausalLM

from ..backbone import set_attention
from ..spec import Attention
from .batches import BatchPlan, PairBatches
from .decoder import mean_vectors, residual_outputs
from .objective import Objective
from .pairs import PairSet
from .recipe import ContrastiveRecipe
from .run import Schedule, StepResult, train
from .teacher import TeacherVectors


def convert(model: LlamaForCausalLM, keep_branches: float, branch_std: float, seed: int) -> None:
    """Makes the decoder bidirectional and nearly silences what its layers write into the residual stream.

    What a next-token objective writes there points at the following token and not at the text's meaning; the layers
    keep their learned queries, keys and features, and the encoder starts from the token table. The final norm, whose
    weight fitted logits, goes back to 1.

    Args:
        model: converted in place.
        keep_branches: factor on the weights that write into the residual stream.
        branch_std: of the normal noise that is added to them, so that a zero factor leaves something to learn from.
        seed: of the noise.
    """
    set_attention(model.config, Attention.BIDIRECTIONAL)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for branch in residual_outputs(model):
            noise = torch.randn(branch.weight.shape, generator=generator)
            branch.weight.mul_(keep_branches).add_(noise, alpha=branch_std)
        model.model.norm.weight.fill_(1.0)


def temper(model: LlamaForCausalLM, table: NDArray[np.float32], branch_share: float) -> None:
    """Goes back from the trained encoder towards the token table it started from, in place.

    After a short training the layers' contribution points the right way but is too large: the mean of start and end
    in weight space does better than either (Wortsman et al. 2022, 'Robust fine-tuning of zero-shot models'). Here the
    start is the token table `table`, (V, D) float32, with silent layers; the share is chosen on the development set.
    """
    with torch.no_grad():
        cast(nn.Embedding, model.get_input_embeddings()).weight.copy_(torch.from_numpy(table))
        model.model.norm.weight.fill_(1.0)
        for branch in residual_outputs(model):
            branch.weight.mul_(branch_share)


def train_contrastive(
    model: LlamaForCausalLM,
    pairs: PairSet,
    vectors: TeacherVectors,
    rotation: NDArray[np.float32],
    recipe: ContrastiveRecipe,
    folder: Path,
) -> None:
    """Trains the converted `model` in place; `rotation` (D, D) brings teacher vectors into the table's basis."""
    plan = BatchPlan(recipe.seed, recipe.batch_pairs, recipe.query_tokens, recipe.passage_tokens, recipe.teacher_share)
    batches = PairBatches(pairs, vectors, rotation, plan)
    objective = Objective(
        recipe.dims,
        recipe.temperature,
        recipe.contrastive_weight,
        recipe.cosine_weight,
        recipe.scores_weight,
    )

    def forward(step: int) -> StepResult:
        batch = batches[step]
        queries, passages = mean_vectors(model, batch.queries), mean_vectors(model, batch.passages)
        return StepResult(objective(queries, passages, batch.targets), batch.tokens)

    model.train()
    table = model.get_input_embeddings().weight
    others = [parameter for parameter in model.parameters() if parameter is not table]
    groups: list[dict[str, object]] = [
        {"params": others, "lr": recipe.learning_rate},
        {"params": [table], "lr": recipe.table_learning_rate},
    ]
    schedule = Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps)
    train(model, groups, forward, schedule, folder)
    model.eval()
