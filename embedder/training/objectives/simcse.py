"""Unsupervised contrast of a text with itself under another dropout mask (SimCSE, arXiv 2104.08821)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ..packed_texts import PackedTexts
from ..run import StepResult
from ..training_recipe import SimcseSettings
from .context import Context
from .gradcache import cached_backward, chunks
from .ranking import over_widths
from .text_batches import TextBatches


class Simcse:
    """The objective; see `SimcseSettings`."""

    def __init__(self, settings: SimcseSettings, context: Context, names: list[str]) -> None:
        self._settings, self._context = settings, context
        self._batches = TextBatches(context, names, settings.max_tokens)

    def __call__(self, step: int, weight: float) -> StepResult:
        """Propagates the step's loss back."""
        trainee, settings = self._context.trainee, self._settings
        rows = _rows(self._batches(step, settings.batch_texts))
        parts = chunks([*rows, *rows], np.zeros(2 * len(rows), np.int64), settings.chunk_tokens, trainee.device)

        def loss_of(vectors: Tensor) -> Tensor:
            return over_widths(vectors, self._context.dims, self._loss)

        trainee.set_dropout(settings.dropout, f"{self._context.field}.dropout")
        loss = cached_backward(parts, trainee.vectors, loss_of, weight, self._context.dropout_seed(step))
        trainee.set_dropout(0.0, f"{self._context.field}.dropout")
        return StepResult(loss, 2 * sum(map(len, rows)))

    def _loss(self, unit: Tensor) -> Tensor:
        first, second = unit.chunk(2)
        scores = first @ second.T / self._settings.temperature
        return F.cross_entropy(scores, torch.arange(len(first), device=scores.device))


def _rows(texts: PackedTexts) -> list[np.ndarray]:
    return [ids.cpu().numpy() for ids in texts.input_ids.split(texts.lengths)]
