"""Generation of missing spans (MAGNET, arXiv 2501.08648): context attends both ways, a span's tokens forward only.

No library has this mask. Spans stay in their places, and each first token is predicted by the context token before it,
which cannot see the span.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..hybrid import HybridLayout, refusal
from ..packed_texts import PackedTexts
from ..run import StepResult
from ..training_recipe import InfillSettings
from .context import Context
from .text_batches import TextBatches, texts_a_step


class Infill:
    """The objective; see `InfillSettings`."""

    def __init__(self, settings: InfillSettings, context: Context, names: list[str]) -> None:
        self._settings, self._context = settings, context
        reason = refusal(context.trainee.model, settings.max_tokens)
        context.require(reason is None, "kind", f"infill does not run on this model: {reason}")
        self._batches = TextBatches(context, names, settings.max_tokens)

    def __call__(self, step: int, weight: float) -> StepResult:
        """Propagates the step's loss back."""
        texts = self._batches(step, texts_a_step(self._settings.batch_tokens, self._settings.max_tokens))
        rng = self._context.rng(step + 1_000_000_007)
        spans = draw_spans(texts, self._settings.span_share, self._settings.span_tokens, rng)
        self._context.fix_dropout(step)
        layout = HybridLayout.of(texts.layout(causal=False), spans)
        hidden = self._context.trainee.hidden(texts, layout)
        places = spans.nonzero()[:, 0]
        loss = self._context.trainee.token_loss(hidden[places - 1], texts.input_ids[places])
        (weight * loss).backward()
        return StepResult(loss.detach(), len(texts.input_ids))


def draw_spans(texts: PackedTexts, share: float, mean_tokens: int, rng: np.random.Generator) -> Tensor:
    """(total_tokens,) int64: 0 in the context, else the number of the span within its text, from 1.

    Spans of 1 to 2 * mean_tokens - 1 tokens; none holds a text's first token, and none touches another one, so that
    the token before a span is always context. Every text that has two tokens gets at least one.
    """
    rows = [_spans_of(length, share, mean_tokens, rng) for length in texts.lengths]
    return torch.from_numpy(np.concatenate(rows)).to(texts.input_ids.device)


def _spans_of(length: int, share: float, mean_tokens: int, rng: np.random.Generator) -> NDArray[np.int64]:
    spans = np.zeros(length, np.int64)
    wanted, number = max(1, round(share * length)), 0
    for _ in range(4 * wanted):
        missing = wanted - int((spans > 0).sum())
        if missing < 1 or length < 2:
            break
        size = min(int(rng.integers(1, 2 * mean_tokens)), missing, length - 1)
        start = int(rng.integers(1, length - size + 1))
        if not spans[max(1, start - 1) : start + size + 1].any():
            number += 1
            spans[start : start + size] = number
    return spans
