"""Sparse training: contrast of term weights, and FLOPS regularisers that grow quadratically (arXiv 2109.10086).

sentence-transformers' SpladeLoss embeds padded features with a SparseEncoder, and its regulariser wants one too.
"""

from __future__ import annotations

from torch import Tensor

from ..run import StepResult
from ..training_recipe import SpladeSettings
from .context import Context
from .gradcache import cached_backward
from .pair_batches import PairBatches
from .ranking import ranking_loss


class Splade:
    """The objective; see `SpladeSettings`."""

    def __init__(self, settings: SpladeSettings, context: Context, names: list[str]) -> None:
        self._settings, self._context = settings, context
        if context.trainee.sparse is None:
            context.require(False, "kind", "splade needs a sparse head: set `sparse: {}` under encoder")
        self._batches = PairBatches(settings, context, names)

    def __call__(self, step: int, weight: float) -> StepResult:
        """Propagates the step's loss back."""
        batch = self._batches(step)
        grown = flops_factor(step, self._settings.flops_warmup_steps)

        def loss_of(rows: Tensor) -> Tensor:
            count = batch.candidates.queries
            queries, passages = rows[:count], rows[count:]
            scores = queries @ passages.T / self._settings.temperature
            loss = ranking_loss(scores, batch.candidates, in_batch=self._settings.in_batch_negatives)
            loss = loss + grown * self._settings.query_flops * flops(queries)
            return loss + grown * self._settings.passage_flops * flops(passages)

        seed = self._context.dropout_seed(step)
        loss = cached_backward(batch.parts, self._context.trainee.term_weights, loss_of, weight, seed)
        return StepResult(loss, batch.tokens)


def flops(rows: Tensor) -> Tensor:
    """Sum over terms of the squared mean weight (Paria et al. 2020), of rows (N, V) that are not negative."""
    return rows.mean(0).square().sum()


def flops_factor(step: int, warmup_steps: int) -> float:
    """What a regulariser's weight is multiplied by: (step / warm-up) squared, then 1."""
    return min(1.0, (step / max(1, warmup_steps)) ** 2)
