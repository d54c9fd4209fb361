"""The pooling kernels as one differentiable function."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.layout import PackedLayout
from ..attention.triton_attention import dense_rows
from ..configs import launch, lookup
from .pool_kernel import pool_bwd_kernel, pool_chunk_kernel, pool_edge_kernel, pool_finish_kernel, pool_fwd_kernel

if TYPE_CHECKING:
    from .fused import PoolMode


def triton_pool(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None,
    *,
    mode: PoolMode,
    count_kept: bool,
    dimensions: int | None,
    normalize: bool,
) -> Tensor:
    """Pool with a kernel; as `fused.pool`. Where gradients flow, normalisation is PyTorch's."""
    if torch.is_grad_enabled() and hidden.requires_grad:
        width = dimensions or hidden.shape[1]
        vectors = cast("Tensor", _Pool.apply(hidden, layout, keep, mode, count_kept, width))
        return functional.normalize(vectors, dim=-1) if normalize else vectors
    return _forward(hidden, layout, keep, mode, count_kept, dimensions or hidden.shape[1], normalize)


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        hidden: Tensor,
        layout: PackedLayout,
        keep: Tensor | None,
        mode: PoolMode,
        count_kept: bool,
        width: int,
    ) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.layout, ctx.mode, ctx.count_kept, ctx.width = layout, mode, count_kept, width
        ctx.shape, ctx.dtype = hidden.shape, hidden.dtype
        return _forward(hidden, layout, keep, mode, count_kept, width, False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (keep,) = ctx.saved_tensors
        d_out = gradients[0].contiguous()
        rows, H = ctx.shape
        sequence = ctx.layout.sequence_ids()
        share = _shares(ctx.layout, keep, sequence, ctx.mode, ctx.count_kept)
        d_hidden = torch.empty(rows, H, dtype=ctx.dtype, device=d_out.device)
        config = lookup("pool_bwd", H, d_out.device)
        tiles, blocks = -(-rows // config.blocks["BT"]), -(-H // config.blocks["BW"])
        launch(
            pool_bwd_kernel, tiles, blocks, d_out, share, sequence, d_hidden,
            d_out.stride(0), d_hidden.stride(0), rows, H=H, W=ctx.width, **config.launch(),
        )  # fmt: skip
        return d_hidden, None, None, None, None, None


def _shares(layout: PackedLayout, keep: Tensor | None, sequence: Tensor, mode: PoolMode, count_kept: bool) -> Tensor:
    """What part of its sequence's vector each token is, (total_tokens,) float32."""
    device = sequence.device
    kept = torch.ones(len(sequence), device=device) if keep is None else keep.float()
    starts = layout.cu_seqlens[:-1].long()
    counted = kept.cumsum(0)
    rank = counted - (counted - kept)[starts][sequence]
    if mode in ("first", "last"):
        total = torch.zeros(layout.batch_size, device=device).index_add_(0, sequence, kept)[sequence]
        return kept * (rank == (total if mode == "last" else 1.0))
    weight = kept
    if mode == "weighted":
        weight = kept * (rank if count_kept else layout.position_ids() + 1)
    totals = torch.zeros(layout.batch_size, device=device).index_add_(0, sequence, weight)
    return weight / totals[sequence]


def _forward(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None,
    mode: PoolMode,
    count_kept: bool,
    W: int,
    normalize: bool,
) -> Tensor:
    hidden = dense_rows(hidden)
    out = torch.empty(layout.batch_size, W, dtype=torch.float32, device=hidden.device)
    # Triton reads a bool as one bit: bytes are what lies in memory.
    bytes_kept = None if keep is None else keep.contiguous().view(torch.uint8)
    BW = 1 << (W - 1).bit_length()
    config = lookup("pool_fwd", W, hidden.device)
    cu, strides = layout.cu_seqlens, (hidden.stride(0), out.stride(0))
    if mode in ("first", "last"):
        launch(
            pool_edge_kernel, layout.batch_size, 1, hidden, bytes_kept, out, cu, *strides,
            W=W, BW=BW, LAST=mode == "last", NORMALIZE=normalize, **config.launch(),
        )  # fmt: skip
        return out
    flags = {"WEIGHTED": mode == "weighted", "COUNT_KEPT": count_kept}
    chunked = lookup("pool_chunk", W, hidden.device)
    chunk = chunked.blocks["CHUNK"]
    if layout.max_seqlen <= chunk:
        launch(
            pool_fwd_kernel, layout.batch_size, 1, hidden, bytes_kept, out, cu, *strides,
            W=W, BW=BW, NORMALIZE=normalize, **flags, **config.launch(),
        )  # fmt: skip
        return out
    chunks, firsts = _chunks(layout, chunk)
    sums = out.new_empty(len(chunks), W)
    totals = out.new_empty(len(chunks))
    meta = {key: value for key, value in chunked.launch().items() if key != "CHUNK"}
    launch(
        pool_chunk_kernel, len(chunks), -(-W // meta["BW"]), hidden, bytes_kept, sums, totals, chunks,
        hidden.stride(0), W=W, **flags, **meta,
    )  # fmt: skip
    launch(
        pool_finish_kernel, layout.batch_size, 1, sums, totals, out, firsts, out.stride(0),
        W=W, BW=BW, NORMALIZE=normalize, num_warps=config.num_warps,
    )  # fmt: skip
    return out


def _chunks(layout: PackedLayout, chunk: int) -> tuple[Tensor, Tensor]:
    """Cut sequences into chunks: (chunks, 3) int32 for the kernel, and each sequence's first chunk, (batch + 1,)."""
    device = layout.cu_seqlens.device
    lengths = layout.ragged.queries
    rows: list[tuple[int, int, int]] = []
    for begin, length in zip(accumulate([0, *lengths]), lengths, strict=False):
        rows += [(first, min(first + chunk, begin + length), begin) for first in range(begin, begin + length, chunk)]
    firsts = [0, *accumulate(-(-length // chunk) for length in lengths)]
    return (
        torch.tensor(rows, dtype=torch.int32).to(device, non_blocking=True),
        torch.tensor(firsts, dtype=torch.int32).to(device, non_blocking=True),
    )
