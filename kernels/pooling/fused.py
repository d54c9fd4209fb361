"""Pooling as an encoder calls it: hidden states in, unit vectors of the wanted width out, read once."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.layout import PackedLayout
from ..dispatch import Implementation, choose
from .packed import pool_edge, pool_max, pool_mean

PoolMode = Literal["mean", "weighted", "max", "first", "last"]


def pool(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None = None,
    *,
    mode: PoolMode,
    count_kept: bool = False,
    dimensions: int | None = None,
    normalize: bool = False,
    implementation: Implementation | None = None,
) -> Tensor:
    """Pool the kept tokens of each sequence, cut the vector to its first dimensions, and give it unit length.

    Args:
        hidden: (total_tokens, H).
        layout: where each sequence lies.
        keep: (total_tokens,) bool, the tokens that are pooled, the instruction's excluded; None for all. Each
            sequence keeps at least one.
        mode: which pooling, see `packed`.
        count_kept: for `weighted`, count positions from the first kept token.
        dimensions: width of the result (Matryoshka); None for H. What lies beyond is not read.
        normalize: whether vectors get unit length, after the cut.
        implementation: asks for one by name.

    Returns:
        (batch, dimensions) float32.

    Raises:
        KernelError: if the implementation asked for cannot run.
    """
    if choose("pooling", hidden.device, _refusal(hidden, mode), implementation) == "torch":
        return pool_twin(
            hidden, layout, keep, mode=mode, count_kept=count_kept, dimensions=dimensions, normalize=normalize
        )
    from .triton_pool import triton_pool

    return triton_pool(
        hidden, layout, keep, mode=mode, count_kept=count_kept, dimensions=dimensions, normalize=normalize
    )


def pool_twin(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None = None,
    *,
    mode: PoolMode,
    count_kept: bool = False,
    dimensions: int | None = None,
    normalize: bool = False,
) -> Tensor:
    """`pool` in plain PyTorch."""
    hidden = hidden[:, :dimensions]
    if mode == "max":
        vectors = pool_max(hidden, layout, keep)
    elif mode in ("first", "last"):
        vectors = pool_edge(hidden, layout, keep, last=mode == "last")
    else:
        vectors = pool_mean(hidden, layout, keep, weighted=mode == "weighted", count_kept=count_kept)
    return functional.normalize(vectors, dim=-1) if normalize else vectors


def _refusal(hidden: Tensor, mode: PoolMode) -> str | None:
    if mode == "max":
        return "max pooling has no kernel"
    if hidden.dtype == torch.float64:
        return "float64 has no kernel"
    return None
