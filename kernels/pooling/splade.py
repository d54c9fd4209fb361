"""SPLADE pooling (arXiv 2109.10086) over a packed batch in plain PyTorch, without the logits of a whole batch."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.layout import PackedLayout
from ..dispatch import Implementation, choose
from ..rows import computed_alike

# Logits that exist at once: 4 MiB in bfloat16, which a core's cache nearly holds until the maximum is taken.
TILE_TOKENS, TILE_TERMS = 512, 4096
# The same where gradients are spread: with 128k terms they take 64 MiB in float32.
GRADIENT_TOKENS = 128


def max_logits(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    implementation: Implementation | None = None,
) -> Tensor:
    """Take each term's largest logit over the kept tokens of each sequence; differentiable.

    What SPLADE does to a logit grows with it, so the maximum can come first and the logarithm is taken once per text.
    The logits of a whole batch never exist: memory is O(batch x V), not O(tokens x V).

    Args:
        hidden: (total_tokens, H).
        layout: where each sequence lies.
        keep: (total_tokens,) bool, the tokens that take part; None for all.
        weight: (V, H), the language-model head.
        bias: (V,), or None.
        implementation: asks for one by name.

    Returns:
        (batch, V) float32, -inf in the rows of sequences that keep no token.

    Raises:
        KernelError: if the implementation asked for cannot run.
    """
    if choose("splade", hidden.device, _refusal(hidden, weight), implementation) == "torch":
        return max_logits_twin(hidden, layout, keep, weight, bias)
    from .triton_splade import triton_max_logits

    return triton_max_logits(hidden, layout, keep, weight, bias)


def splade(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    double_log: bool = False,
    top_k: int | None = None,
    implementation: Implementation | None = None,
) -> Tensor:
    """Term weights of each sequence: log(1 + relu(softcap(scale * largest logit))).

    Args:
        hidden: see `max_logits`, as the next four.
        layout: see there.
        keep: see there.
        weight: see there.
        bias: see there.
        scale: factor on the logits, positive.
        softcap: logits become `softcap * tanh(logits / softcap)`.
        double_log: take the logarithm twice.
        top_k: keep that many of a sequence's largest weights, the others become 0; chosen on (batch, V).
        implementation: asks for one by name.

    Returns:
        (batch, V) float32, not negative; differentiable where gradients are on.

    Raises:
        KernelError: if the implementation asked for cannot run.
    """
    training = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    fused = not training and choose("splade", hidden.device, _refusal(hidden, weight), implementation) == "triton"
    if fused:
        from .triton_splade import SpladeOptions, triton_splade

        options = SpladeOptions(2 if double_log else 1, scale, softcap)
        weights = triton_splade(hidden, layout, keep, weight, bias, options)
    else:
        logits = max_logits(hidden, layout, keep, weight, bias, implementation=implementation) * scale
        logits = softcap * torch.tanh(logits / softcap) if softcap else logits
        weights = splade_weights(logits, double_log=double_log)
    if top_k is not None and top_k < weights.shape[1]:
        kept = weights.topk(top_k, dim=-1)
        weights = torch.zeros_like(weights).scatter(-1, kept.indices, kept.values)
    return weights


def _refusal(hidden: Tensor, weight: Tensor) -> str | None:
    if hidden.dtype != weight.dtype:
        return "hidden states and head differ in dtype"
    if hidden.dtype == torch.float64:
        return "float64 has no kernel"
    if hidden.dtype == torch.bfloat16 and hidden.device.type == "cpu":
        return "Triton's interpreter multiplies no bfloat16"
    return None


def max_logits_twin(
    hidden: Tensor, layout: PackedLayout, keep: Tensor | None, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """`max_logits` in plain PyTorch, tile by tile."""
    inputs = (hidden, weight) if bias is None else (hidden, weight, bias)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return cast("Tensor", _MaxLogits.apply(hidden, weight, bias, keep, layout))
    return _largest(hidden, layout, keep, weight, bias, None)


class _MaxLogits(torch.autograd.Function):
    """Keeps which token gave each maximum; autograd would keep the logits of all tiles."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor | None, layout: PackedLayout
    ) -> Tensor:
        places = torch.full((layout.batch_size, weight.shape[0]), -1, device=hidden.device)
        largest = _largest(hidden, layout, keep, weight, bias, places)
        ctx.save_for_backward(hidden, weight, bias, places)
        ctx.layout = layout
        return largest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, places = ctx.saved_tensors
        wanted = gradients[0].float().where(places >= 0, 0.0)
        d_hidden = torch.zeros_like(hidden) if ctx.needs_input_grad[0] else None
        d_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for sequence, count, begin, stop in _tiles(ctx.layout, GRADIENT_TOKENS):
            own, at = wanted[sequence : sequence + count], places[sequence : sequence + count]
            inside = (at >= begin) & (at < stop)
            spread = own.new_zeros(stop - begin, own.shape[1])
            spread.scatter_add_(0, torch.where(inside, at - begin, 0), own.where(inside, 0.0))
            spread = spread.to(weight.dtype)
            if d_hidden is not None:
                d_hidden[begin:stop] = (spread @ weight).to(hidden.dtype)
            if d_weight is not None:
                d_weight += spread.T @ hidden[begin:stop].to(weight.dtype)
        d_bias = wanted.sum(0).to(bias.dtype) if bias is not None and ctx.needs_input_grad[2] else None
        return d_hidden, None if d_weight is None else d_weight.to(weight.dtype), d_bias, None, None


def _largest(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    places: Tensor | None,
) -> Tensor:
    """(batch, V) float32; `places` (batch, V) int64 is given the tokens they come from, where it is not None."""
    largest = hidden.new_full((layout.batch_size, weight.shape[0]), float("-inf"), dtype=torch.float32)
    for sequence, count, begin, stop in _tiles(layout, TILE_TOKENS):
        rows, masked = hidden[begin:stop], None if keep is None else ~keep[begin:stop, None]
        first = torch.arange(begin, stop, (stop - begin) // count, device=hidden.device)
        for term in range(0, weight.shape[0], TILE_TERMS):
            terms = slice(term, term + TILE_TERMS)
            product = partial(functional.linear, weight=weight[terms], bias=None if bias is None else bias[terms])
            logits = computed_alike(product, rows)
            if masked is not None:
                logits = logits.masked_fill_(masked, float("-inf"))
            logits, known = logits.unflatten(0, (count, -1)), largest[sequence : sequence + count, terms]
            if places is None:
                torch.maximum(known, logits.amax(1), out=known)
                continue
            found, token = logits.max(1)
            better = found > known
            at = places[sequence : sequence + count, terms]
            at.copy_(torch.where(better, token + first[:, None], at))
            known.copy_(torch.where(better, found.float(), known))
    return largest


def _tiles(layout: PackedLayout, tokens: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield (first sequence, sequences, first token, end): several short sequences whole, or a piece of a long one."""
    before = 0
    for start, count, length in layout.runs:
        for first in range(0, count, step := max(1, tokens // length)):
            sequences = min(step, count - first)
            begin = start + first * length
            end = begin + sequences * length
            width = end - begin if sequences > 1 else tokens
            for offset in range(begin, end, width):
                yield before + first, sequences, offset, min(offset + width, end)
        before += count


def splade_weights(logits: Tensor, *, double_log: bool = False) -> Tensor:
    """Turn logits into term weights, log(1 + relu(logit)); `double_log` takes it twice (arXiv 2504.14839)."""
    weights = torch.log1p(torch.relu(logits))
    return torch.log1p(weights) if double_log else weights
