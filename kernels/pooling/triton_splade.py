"""The SPLADE kernels as one differentiable function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..attention.layout import PackedLayout
from ..attention.triton_attention import dense_rows, precision
from ..configs import launch, lookup
from .splade_kernel import splade_bwd_hidden_kernel, splade_bwd_weight_kernel, splade_fwd_kernel


@dataclass(frozen=True)
class SpladeOptions:
    """What follows the maximum: nothing, or softcap(scale * logit) and `logs` times log(1 + relu(.))."""

    logs: int = 0
    scale: float = 1.0
    softcap: float | None = None


def triton_max_logits(
    hidden: Tensor, layout: PackedLayout, keep: Tensor | None, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Largest logit per sequence and term, as `splade.max_logits`; differentiable by hidden, weight and bias."""
    return cast("Tensor", _MaxLogits.apply(hidden, weight, bias, keep, layout))


def triton_splade(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None,
    weight: Tensor,
    bias: Tensor | None,
    options: SpladeOptions,
) -> Tensor:
    """Term weights, (batch, V) float32, in one pass; not differentiable."""
    return _forward(hidden, weight, bias, keep, layout, options, None)


class _MaxLogits(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, keep: Tensor | None, layout: PackedLayout
    ) -> Tensor:
        argmax = torch.empty(layout.batch_size, weight.shape[0], dtype=torch.int32, device=hidden.device)
        out = _forward(hidden, weight, bias, keep, layout, SpladeOptions(), argmax)
        ctx.save_for_backward(hidden, weight, bias, argmax)
        ctx.layout = layout
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, argmax = ctx.saved_tensors
        hidden, weight = dense_rows(hidden), dense_rows(weight)
        d_out = gradients[0].float().contiguous()
        (tokens, H), V = hidden.shape, weight.shape[0]
        sequence = ctx.layout.sequence_ids().int()
        config = lookup("splade_bwd", H, hidden.device, hidden.dtype)
        BM, BV, BH = (config.blocks[name] for name in ("BM", "BV", "BH"))
        constants = {"H": H, "PRECISION": precision(hidden.dtype), **config.launch()}
        d_hidden = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_hidden = torch.empty(tokens, H, dtype=hidden.dtype, device=hidden.device)
            launch(
                splade_bwd_hidden_kernel, -(-tokens // BM), -(-H // BH), weight, d_out, argmax, sequence, d_hidden,
                weight.stride(0), d_hidden.stride(0), tokens, V, **constants,
            )  # fmt: skip
        if ctx.needs_input_grad[1]:
            d_weight = torch.empty(V, H, dtype=weight.dtype, device=weight.device)
            launch(
                splade_bwd_weight_kernel, -(-V // BV), -(-H // BH), hidden, d_out, argmax, sequence, d_weight,
                hidden.stride(0), d_weight.stride(0), tokens, V, **constants,
            )  # fmt: skip
        if bias is not None and ctx.needs_input_grad[2]:
            d_bias = d_out.where(argmax >= 0, 0.0).sum(0).to(bias.dtype)
        return d_hidden, d_weight, d_bias, None, None


def _forward(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    keep: Tensor | None,
    layout: PackedLayout,
    options: SpladeOptions,
    argmax: Tensor | None,
) -> Tensor:
    hidden, weight = dense_rows(hidden), dense_rows(weight)
    bias = None if bias is None else bias.contiguous()
    kept = None if keep is None else keep.contiguous().view(torch.uint8)
    H, V = hidden.shape[1], weight.shape[0]
    config = lookup("splade_fwd", H, hidden.device, hidden.dtype)
    groups = layout.ragged.groups(config.blocks["BM"])
    out = torch.empty(layout.batch_size, V, dtype=torch.float32, device=hidden.device)
    launch(
        splade_fwd_kernel, len(groups) * -(-V // config.blocks["BV"]), 1,
        hidden, weight, bias, kept, out, argmax, groups, layout.cu_seqlens,
        hidden.stride(0), weight.stride(0), V, len(groups), options.scale, options.softcap or 1.0,
        H=H, PRECISION=precision(hidden.dtype), HAS_SOFTCAP=options.softcap is not None, LOGS=options.logs,
        **config.launch(),
    )  # fmt: skip
    return out
