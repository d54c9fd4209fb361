"""The split cross-attention kernels as one differentiable function."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from ..attention.triton_attention import AttentionOptions, attention_gradients, block_of, dense_rows, precision
from ..configs import KernelConfig, launch, lookup
from .layout import CrossLayout
from .split_kernel import cross_attention_merge_kernel, cross_attention_split_kernel

# Programs the context is shared between: two per multiprocessor hide each other's loads.
WORKERS_PER_SM = 2
WORKERS_INTERPRETED = 5


def triton_cross_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: CrossLayout, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attend to cached context; arguments and results as in `packed_cross_attention`, differentiable by all."""
    return cast(
        "tuple[Tensor, Tensor]",
        _CrossAttention.apply(query, key, value, layout, AttentionOptions(scale, causal=False, softcap=softcap)),
    )


class _CrossAttention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: CrossLayout, options: AttentionOptions
    ) -> tuple[Tensor, Tensor]:
        query, key, value = (dense_rows(x) for x in (query, key, value))
        out, lse = _forward(query, key, value, layout, options)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.layout, ctx.options = layout, options
        return out, lse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse = ctx.saved_tensors
        d_query, d_key, d_value, _ = attention_gradients(
            query, key, value, None, out, lse, gradients, ctx.layout.ragged, ctx.options
        )
        return d_query, d_key, d_value, None, None


def _forward(
    query: Tensor, key: Tensor, value: Tensor, layout: CrossLayout, options: AttentionOptions
) -> tuple[Tensor, Tensor]:
    heads, rows, D = query.shape
    kv_heads, DV = key.shape[0], value.shape[-1]
    config = lookup("cross_attention", D, query.device, query.dtype)
    group, BM, BN = heads // kv_heads, block_rows(config, heads // kv_heads), config.blocks["BN"]
    plan = layout.split(kv_heads=kv_heads, block_queries=BM // group, block_keys=BN, workers=_workers(query.device))
    out = query.new_empty(rows, heads, DV)
    lse = query.new_empty(heads, rows, dtype=torch.float32)
    BD, BDV = block_of(D), block_of(DV)
    part = query.new_empty(plan.slots, BM, BDV, dtype=torch.float32)
    part_lse = query.new_empty(plan.slots, BM, dtype=torch.float32)
    meta = {**config.launch(), "BM": BM}
    launch(
        cross_attention_split_kernel, len(plan.shares) - 1, 1,
        query, key, value, part, part_lse, plan.segments, plan.shares,
        *query.stride()[:2], *key.stride()[:2], *value.stride()[:2], options.scale, options.softcap or 1.0,
        GROUP=group, D=D, DV=DV, BD=BD, BDV=BDV,
        HAS_SOFTCAP=options.softcap is not None, PRECISION=precision(query.dtype), **meta,
    )  # fmt: skip
    meta.pop("BN")
    launch(
        cross_attention_merge_kernel, len(plan.merges), 1,
        part, part_lse, out, lse, plan.merges, out.stride(0), lse.stride(0),
        GROUP=group, DV=DV, BDV=BDV, **meta,
    )  # fmt: skip
    return out, lse


def block_rows(config: KernelConfig, group: int) -> int:
    """Rows of a block: the configured number, or as many as one query's heads need."""
    return max(config.blocks["BM"], 1 << (group - 1).bit_length())


def _workers(device: torch.device) -> int:
    if device.type != "cuda":
        return WORKERS_INTERPRETED
    return WORKERS_PER_SM * torch.cuda.get_device_properties(device).multi_processor_count
