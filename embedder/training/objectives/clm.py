"""Next-token prediction with causal attention, also with part of the input masked (MEAP, arXiv 2502.07490).

The models' own loss works on padded rows and shifts labels across them; here texts lie end to end.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from ..mask_token import mask_token_id
from ..packed_texts import PackedTexts
from ..run import StepResult
from ..training_recipe import ClmSettings
from .context import Context
from .text_batches import TextBatches, texts_a_step


class Clm:
    """The objective; see `ClmSettings`."""

    def __init__(self, settings: ClmSettings, context: Context, names: list[str]) -> None:
        self._settings, self._context = settings, context
        self._batches = TextBatches(context, names, settings.max_tokens)
        self._mask_id = -1
        if settings.mask_share:
            tokenizer = context.trainee.encoder.text_tokenizer.source
            self._mask_id = mask_token_id(tokenizer, settings.mask_token, f"{context.field}.mask_token")
        config = context.trainee.model.config
        self._experts = getattr(config, "num_experts", None) or getattr(config, "num_local_experts", None)
        self._top_k = getattr(config, "num_experts_per_tok", 1)

    def __call__(self, step: int, weight: float) -> StepResult:
        """Propagates the step's loss back."""
        count = texts_a_step(self._settings.batch_tokens, self._settings.max_tokens)
        texts = self._batches(step, count)
        self._context.fix_dropout(step)
        balance = bool(self._experts and self._settings.router_balance)
        fed = PackedTexts(self.inputs(texts, step), texts.lengths, texts.restore)
        layout, trainee = fed.layout(causal=True), self._context.trainee
        routes: tuple[Tensor, ...] = ()
        if balance:
            hidden, routes = trainee.hidden_and_routes(fed, layout)
        else:
            hidden = trainee.hidden(fed, layout)
        loss = trainee.token_loss(*next_tokens(hidden, texts))
        if balance:
            # One a layer, which the library's signature forgets.
            spread = cast(Tensor, load_balancing_loss_func(cast(tuple[Tensor], routes), self._experts, self._top_k))
            loss = loss + self._settings.router_balance * spread
        (weight * loss).backward()
        return StepResult(loss.detach(), len(texts.input_ids))

    def inputs(self, texts: PackedTexts, step: int) -> Tensor:
        """What is fed: the texts' ids, MEAP's share of them replaced by the mask token."""
        if not self._settings.mask_share:
            return texts.input_ids
        hidden = self._context.rng(step + 1_000_000_007).random(len(texts.input_ids)) < self._settings.mask_share
        return texts.input_ids.masked_fill(torch.from_numpy(hidden).to(texts.input_ids.device), self._mask_id)


def next_tokens(hidden: Tensor, texts: PackedTexts) -> tuple[Tensor, Tensor]:
    """States (tokens, H) that have a next token in their text, and those tokens (tokens,)."""
    last = torch.tensor(texts.lengths, device=hidden.device).cumsum(0) - 1
    keep = torch.ones(len(texts.input_ids), dtype=torch.bool, device=hidden.device)
    keep[last] = False
    return hidden[keep], texts.input_ids.roll(-1)[keep]
