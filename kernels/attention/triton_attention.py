"""The Triton attention kernels as one differentiable function."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from ..configs import launch, lookup
from .backward_kernel import attention_bwd_dkv_kernel, attention_bwd_dq_kernel
from .forward_kernel import attention_fwd_kernel
from .ragged import Ragged


@dataclass(frozen=True)
class AttentionOptions:
    """What besides the tensors decides the result; see `packed_attention`."""

    scale: float
    causal: bool
    window: int | None = None
    softcap: float | None = None


def triton_attention(
    query: Tensor, key: Tensor, value: Tensor, ragged: Ragged, options: AttentionOptions, sinks: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Let each query attend to the keys of its sequence; differentiable by everything, lse included.

    Args:
        query: (heads, queries, D).
        key: (kv_heads, keys, D).
        value: (kv_heads, keys, DV).
        ragged: which queries see which keys.
        options: how.
        sinks: (heads,), or None.

    Returns:
        (queries, heads, DV) of the query's dtype, and the log-sum-exp of the scores, (heads, queries) float32; zeros
        and -inf for a query without keys.
    """
    return cast("tuple[Tensor, Tensor]", _Attention.apply(query, key, value, sinks, ragged, options))


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sinks: Tensor | None,
        ragged: Ragged,
        options: AttentionOptions,
    ) -> tuple[Tensor, Tensor]:
        query, key, value = (dense_rows(x) for x in (query, key, value))
        sinks = None if sinks is None else sinks.contiguous()
        heads, rows, _ = query.shape
        out = query.new_empty(rows, heads, value.shape[-1])
        lse = query.new_empty(heads, rows, dtype=torch.float32)
        config = lookup("attention_fwd", query.shape[-1], query.device, query.dtype)
        tiles = ragged.tiles("queries", config.blocks["BM"])
        launch(
            attention_fwd_kernel, len(tiles), heads,
            query, key, value, out, lse, sinks, tiles, *ragged.bounds("queries"),
            *query.stride()[:2], *key.stride()[:2], *value.stride()[:2], out.stride(0), lse.stride(0),
            *_scalars(options), **_constants(query, key, value, options), **config.launch(),
        )  # fmt: skip
        ctx.save_for_backward(query, key, value, sinks, out, lse)
        ctx.ragged, ctx.options = ragged, options
        return out, lse

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, sinks, out, lse = ctx.saved_tensors
        found = attention_gradients(query, key, value, sinks, out, lse, gradients, ctx.ragged, ctx.options)
        return *found, None, None


def attention_gradients(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sinks: Tensor | None,
    out: Tensor,
    lse: Tensor,
    gradients: tuple[Tensor, ...],
    ragged: Ragged,
    options: AttentionOptions,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients by query, key, value and sinks from those by `out` and `lse`; shapes as in `triton_attention`."""
    d_out, d_lse = gradients
    d_out = d_out.contiguous()
    # What a score's probability is charged with; the log-sum-exp's own gradient enters with the other sign.
    delta = ((d_out.float() * out.float()).sum(-1).T - d_lse).contiguous()
    d_query, d_key, d_value = _empty_dense(query), _empty_dense(key), _empty_dense(value)
    inputs = (query, key, value, d_out, lse, delta)
    strides = (*query.stride()[:2], *key.stride()[:2], *value.stride()[:2], d_out.stride(0), lse.stride(0))
    constants = _constants(query, key, value, options)
    config = lookup("attention_bwd_dq", query.shape[-1], query.device, query.dtype)
    tiles = ragged.tiles("queries", config.blocks["BM"])
    launch(
        attention_bwd_dq_kernel, len(tiles), query.shape[0],
        *inputs, d_query, tiles, *ragged.bounds("queries"), *strides, *d_query.stride()[:2],
        *_scalars(options), **constants, **config.launch(),
    )  # fmt: skip
    config = lookup("attention_bwd_dkv", query.shape[-1], query.device, query.dtype)
    tiles = ragged.tiles("keys", config.blocks["BN"])
    launch(
        attention_bwd_dkv_kernel, len(tiles), key.shape[0],
        *inputs, d_key, d_value, tiles, *ragged.bounds("keys"), *strides,
        *d_key.stride()[:2], *d_value.stride()[:2], *_scalars(options), **constants, **config.launch(),
    )  # fmt: skip
    d_sinks = None
    if sinks is not None:
        d_sinks = (-(sinks.float()[:, None] - lse).exp() * delta).sum(1).to(sinks.dtype)
    return d_query, d_key, d_value, d_sinks


def _scalars(options: AttentionOptions) -> tuple[float, float, int]:
    return options.scale, options.softcap or 1.0, options.window or 0


def _constants(query: Tensor, key: Tensor, value: Tensor, options: AttentionOptions) -> dict[str, Any]:
    D, DV = query.shape[-1], value.shape[-1]
    return {
        "GROUP": query.shape[0] // key.shape[0],
        "D": D,
        "DV": DV,
        "BD": block_of(D),
        "BDV": block_of(DV),
        "CAUSAL": options.causal,
        "HAS_WINDOW": options.window is not None,
        "HAS_SOFTCAP": options.softcap is not None,
        "PRECISION": precision(query.dtype),
    }


def block_of(width: int) -> int:
    """Power of two that holds a head; the matrix units want 16 at least."""
    return max(16, 1 << (width - 1).bit_length())


def precision(dtype: torch.dtype) -> str:
    """How products of this dtype are computed: float32 in full, or an encoder's vectors would be TF32's."""
    return "ieee" if dtype == torch.float32 else "tf32"


def dense_rows(x: Tensor) -> Tensor:
    """`x` with neighbours in its last dimension side by side, as the kernels read it."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _empty_dense(x: Tensor) -> Tensor:
    """A gradient for `x`, token by token as models lay them out."""
    heads, rows, width = x.shape
    return x.new_empty(rows, heads, width).transpose(0, 1)
