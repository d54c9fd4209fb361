"""SPLADE pooling (arXiv 2109.10086) over a packed batch in plain PyTorch, without the logits of a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.layout import PackedLayout
from ..dispatch import Implementation, choose
from ..rows import computed_alike

# Tokens whose logits exist at once: with 128k terms they take 64 MiB in float32.
TILE_TOKENS = 128


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

    def product(rows: Tensor) -> Tensor:
        return functional.linear(rows, weight, bias)

    parts: list[Tensor] = []
    for start, count, length in layout.runs:
        for first in range(0, count, step := max(1, TILE_TOKENS // length)):
            sequences = min(step, count - first)
            begin = start + first * length
            rows = hidden.new_full((sequences, weight.shape[0]), float("-inf"), dtype=torch.float32)
            # One sequence may be longer than a tile; several fit into one only whole.
            width = length if sequences > 1 else min(length, TILE_TOKENS)
            for offset in range(0, length, width):
                stop = min(offset + width, length)
                tokens = slice(begin + offset, begin + sequences * length if sequences > 1 else begin + stop)
                logits = computed_alike(product, hidden[tokens]).float()
                if keep is not None:
                    logits = logits.masked_fill(~keep[tokens, None], float("-inf"))
                rows = torch.maximum(rows, logits.unflatten(0, (sequences, -1)).amax(1))
            parts.append(rows)
    return torch.cat(parts)


def splade_weights(logits: Tensor, *, double_log: bool = False) -> Tensor:
    """Turn logits into term weights, log(1 + relu(logit)); `double_log` takes it twice (arXiv 2504.14839)."""
    weights = torch.log1p(torch.relu(logits))
    return torch.log1p(weights) if double_log else weights
