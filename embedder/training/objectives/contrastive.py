"""Supervised contrastive training on pairs with instructions and hard negatives, in batches of any size."""

from __future__ import annotations

from torch import Tensor

from ..run import StepResult
from ..training_recipe import ContrastiveSettings
from .context import Context
from .gradcache import cached_backward
from .pair_batches import Candidates, PairBatches
from .ranking import over_widths, ranking_loss


class Contrastive:
    """The objective; see `ContrastiveSettings`."""

    def __init__(self, settings: ContrastiveSettings, context: Context, names: list[str]) -> None:
        self._settings, self._context = settings, context
        self._batches = PairBatches(settings, context, names)

    def __call__(self, step: int, weight: float) -> StepResult:
        """Propagates the step's loss back."""
        batch = self._batches(step)
        seed = self._context.dropout_seed(step)

        def loss_of(vectors: Tensor) -> Tensor:
            return over_widths(vectors, self._context.dims, lambda unit: self._loss(unit, batch.candidates))

        loss = cached_backward(batch.parts, self._context.trainee.vectors, loss_of, weight, seed)
        return StepResult(loss, batch.tokens)

    def _loss(self, unit: Tensor, candidates: Candidates) -> Tensor:
        settings = self._settings
        scores = unit[: candidates.queries] @ unit[candidates.queries :].T / settings.temperature
        return ranking_loss(scores, candidates, in_batch=settings.in_batch_negatives, symmetric=settings.symmetric)
