"""Pooling over a packed batch in Triton: hidden states are read once, from first to last.

Two ways: one program per sequence that holds the whole vector, divides, and normalises; or, where few sequences are
long, one per chunk of tokens and block of dimensions, whose sums a second kernel finishes. Names: `i_` program index,
`o_` offsets, `m_` mask, `p_` pointer, `b_` block in registers, `s_` stride in elements.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _finish(b_sum, MODE_EDGE: tl.constexpr, b_total, NORMALIZE: tl.constexpr):
    """Divide by the weights' total and give unit length, as torch's normalize does with its floor of 1e-12."""
    if not MODE_EDGE:
        b_sum = b_sum / b_total
    if NORMALIZE:
        b_sum = b_sum / tl.maximum(tl.sqrt(tl.sum(b_sum * b_sum)), 1e-12)
    return b_sum


@triton.jit
def _weights(p_keep, o_t, begin, end, seen, WEIGHTED: tl.constexpr, COUNT_KEPT: tl.constexpr):
    """Weights of tokens `o_t` of the sequence that begins at `begin`, and how many were kept up to their end."""
    m_t = o_t < end
    if p_keep is not None:
        b_kept = tl.load(p_keep + o_t, mask=m_t, other=0).to(tl.int32)
    else:
        b_kept = m_t.to(tl.int32)
    b_weight = b_kept.to(tl.float32)
    if WEIGHTED:
        if COUNT_KEPT:
            b_weight *= (seen + tl.cumsum(b_kept, 0)).to(tl.float32)
        else:
            b_weight *= (o_t - begin + 1).to(tl.float32)
    return b_weight, seen + tl.sum(b_kept, 0)


@triton.jit
def pool_fwd_kernel(
    p_hidden,
    p_keep,
    p_out,
    p_cu,
    s_t,
    s_o,
    W: tl.constexpr,
    BW: tl.constexpr,
    BT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    COUNT_KEPT: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """One sequence: (W,) float32, the mean over its kept tokens."""
    i_b = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(p_cu + i_b), tl.load(p_cu + i_b + 1)
    o_w = tl.arange(0, BW)
    b_sum = tl.zeros((BW,), tl.float32)
    b_total = tl.zeros((), tl.float32)
    seen = tl.zeros((), tl.int32)
    for first in range(begin, end, BT):
        o_t = first + tl.arange(0, BT)
        b_weight, seen = _weights(p_keep, o_t, begin, end, seen, WEIGHTED, COUNT_KEPT)
        p_block = p_hidden + o_t[:, None].to(tl.int64) * s_t + o_w[None, :]
        # A token without weight is not read: it may hold anything, and the instruction's may be many.
        m_block = (b_weight > 0.0)[:, None] & (o_w[None, :] < W)
        b_states = tl.load(p_block, mask=m_block, other=0.0).to(tl.float32)
        b_sum += tl.sum(b_states * b_weight[:, None], 0)
        b_total += tl.sum(b_weight, 0)
    tl.store(p_out + i_b * s_o + o_w, _finish(b_sum, False, b_total, NORMALIZE), mask=o_w < W)


@triton.jit
def pool_chunk_kernel(
    p_hidden,
    p_keep,
    p_sums,
    p_totals,
    p_chunks,
    s_t,
    W: tl.constexpr,
    BW: tl.constexpr,
    BT: tl.constexpr,
    WEIGHTED: tl.constexpr,
    COUNT_KEPT: tl.constexpr,
):
    """One chunk of a sequence and block of dimensions: weighted sum, (chunks, W), and the weights' total, (chunks,).

    A row of `p_chunks` is first token, end of tokens, and first token of the sequence.
    """
    i_c, i_w = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin, end = tl.load(p_chunks + i_c * 3), tl.load(p_chunks + i_c * 3 + 1)
    sequence = tl.load(p_chunks + i_c * 3 + 2)
    o_w = i_w * BW + tl.arange(0, BW)
    b_sum = tl.zeros((BW,), tl.float32)
    b_total = tl.zeros((), tl.float32)
    seen = tl.zeros((), tl.int32)
    if WEIGHTED and COUNT_KEPT:
        for first in range(sequence, begin, BT):
            o_t = first + tl.arange(0, BT)
            _, seen = _weights(p_keep, o_t, sequence, begin, seen, False, False)
    for first in range(begin, end, BT):
        o_t = first + tl.arange(0, BT)
        b_weight, seen = _weights(p_keep, o_t, sequence, end, seen, WEIGHTED, COUNT_KEPT)
        p_block = p_hidden + o_t[:, None].to(tl.int64) * s_t + o_w[None, :]
        m_block = (b_weight > 0.0)[:, None] & (o_w[None, :] < W)
        b_states = tl.load(p_block, mask=m_block, other=0.0).to(tl.float32)
        b_sum += tl.sum(b_states * b_weight[:, None], 0)
        b_total += tl.sum(b_weight, 0)
    tl.store(p_sums + i_c * W + o_w, b_sum, mask=o_w < W)
    tl.store(p_totals + i_c, b_total, mask=i_w == 0)


@triton.jit
def pool_finish_kernel(
    p_sums,
    p_totals,
    p_out,
    p_firsts,
    s_o,
    W: tl.constexpr,
    BW: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """Add up a sequence's chunks [p_firsts[i], p_firsts[i + 1])."""
    i_b = tl.program_id(0).to(tl.int64)
    o_w = tl.arange(0, BW)
    b_sum = tl.zeros((BW,), tl.float32)
    b_total = tl.zeros((), tl.float32)
    for i_c in range(tl.load(p_firsts + i_b), tl.load(p_firsts + i_b + 1)):
        p_row = p_sums + tl.zeros((BW,), tl.int64) + i_c * W
        b_sum += tl.load(p_row + o_w, mask=o_w < W, other=0.0)
        b_total += tl.load(p_totals + i_c)
    tl.store(p_out + i_b * s_o + o_w, _finish(b_sum, False, b_total, NORMALIZE), mask=o_w < W)


@triton.jit
def pool_edge_kernel(
    p_hidden,
    p_keep,
    p_out,
    p_cu,
    s_t,
    s_o,
    W: tl.constexpr,
    BW: tl.constexpr,
    BT: tl.constexpr,
    LAST: tl.constexpr,
    NORMALIZE: tl.constexpr,
):
    """One sequence: the state of its last or first kept token; only that row is read."""
    i_b = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(p_cu + i_b), tl.load(p_cu + i_b + 1)
    o_w = tl.arange(0, BW)
    row = end - 1 if LAST else begin
    if p_keep is not None:
        b_found = tl.full((BT,), -1 if LAST else 2147483647, tl.int32)
        for first in range(begin, end, BT):
            o_t = first + tl.arange(0, BT)
            m_kept = tl.load(p_keep + o_t, mask=o_t < end, other=0) != 0
            if LAST:
                b_found = tl.where(m_kept, tl.maximum(b_found, o_t), b_found)
            else:
                b_found = tl.where(m_kept, tl.minimum(b_found, o_t), b_found)
        row = tl.max(b_found, 0) if LAST else tl.min(b_found, 0)
    p_row = p_hidden + tl.zeros((BW,), tl.int64) + row.to(tl.int64) * s_t
    b_state = tl.load(p_row + o_w, mask=o_w < W, other=0.0).to(tl.float32)
    tl.store(p_out + i_b * s_o + o_w, _finish(b_state, True, 1.0, NORMALIZE), mask=o_w < W)


@triton.jit
def pool_bwd_kernel(
    p_d_out,
    p_share,
    p_sequence,
    p_d_hidden,
    s_o,
    s_t,
    total,
    H: tl.constexpr,
    W: tl.constexpr,
    BT: tl.constexpr,
    BW: tl.constexpr,
):
    """Gradient by the hidden states, (total, H): each token's share of its sequence's, zero beyond the cut."""
    o_t = tl.program_id(0).to(tl.int64) * BT + tl.arange(0, BT)
    o_w = tl.program_id(1) * BW + tl.arange(0, BW)
    m_t = o_t < total
    b_share = tl.load(p_share + o_t, mask=m_t, other=0.0)
    b_row = tl.load(p_sequence + o_t, mask=m_t, other=0).to(tl.int64)
    m_read = (b_share != 0.0)[:, None] & (o_w[None, :] < W)
    b_d_out = tl.load(p_d_out + b_row[:, None] * s_o + o_w[None, :], mask=m_read, other=0.0)
    p_block = p_d_hidden + o_t[:, None] * s_t + o_w[None, :]
    b_d = (b_d_out * b_share[:, None]).to(p_d_hidden.dtype.element_ty)
    tl.store(p_block, b_d, mask=m_t[:, None] & (o_w[None, :] < H))
