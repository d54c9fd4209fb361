"""The lm step: next-token prediction on the passages, packed, with the token table frozen.

The table stays as it is because its signal in the residual stream is what the encoder stands on. MEAP (scitix/MEAP,
2025) masks a share of the inputs and keeps the loss; `mask_share` 0 is plain next-token prediction.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from .batches import pack
from .decoder import next_token_loss
from .packed_texts import PackedTexts
from .pairs import PairSet
from .recipe import LmRecipe
from .run import Schedule, StepResult, train


def train_lm(model: LlamaForCausalLM, pairs: PairSet, mask_id: int, recipe: LmRecipe, folder: Path) -> None:
    """Trains `model` in place on the training passages, each text once before any is seen twice."""
    rows = np.flatnonzero(~pairs.dev)
    _, first = np.unique(pairs.groups[rows], return_index=True)
    rows = np.random.default_rng(recipe.seed).permutation(rows[first])
    mean_tokens = float(np.diff(pairs.passages.offsets)[rows].mean())
    texts_a_step = max(1, round(recipe.batch_tokens / mean_tokens))

    def forward(step: int) -> StepResult:
        places = (step * texts_a_step + np.arange(texts_a_step)) % len(rows)
        texts = pack(pairs.passages, rows[places], recipe.max_tokens)
        inputs = _masked(texts, mask_id, recipe, step) if recipe.mask_share else None
        return StepResult(next_token_loss(model, texts, inputs), len(texts.input_ids))

    model.get_input_embeddings().requires_grad_(False)
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    schedule = Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps)
    train(model, [{"params": trained, "lr": recipe.learning_rate}], forward, schedule, folder)
    model.get_input_embeddings().requires_grad_(True)


def _masked(texts: PackedTexts, mask_id: int, recipe: LmRecipe, step: int) -> Tensor:
    generator = torch.Generator().manual_seed(recipe.seed * 1_000_003 + step)
    hidden = torch.rand(len(texts.input_ids), generator=generator) < recipe.mask_share
    return texts.input_ids.masked_fill(hidden, mask_id)
