"""Variable-length attention, forward, in Triton: one program per tile of queries and head.

The softmax is computed online (Milakov and Gimelshein, arXiv 1805.02867; FlashAttention-2, arXiv 2307.08691).
Names: `i_` program index, `o_` offsets, `m_` mask, `p_` pointer, `b_` block in registers, `s_` stride in elements.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def scores_log2(b_dot, scale, softcap, HAS_SOFTCAP: tl.constexpr):
    """Scores times log2(e), so that exp2 can follow."""
    if HAS_SOFTCAP:
        # tanh(x) = 2 sigmoid(2x) - 1
        b_dot = softcap * (2.0 * tl.sigmoid(2.0 * b_dot * scale / softcap) - 1.0)
        return b_dot * LOG2E
    return b_dot * (scale * LOG2E)


@triton.jit
def visible(o_q, o_k, m_range, window, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """Which pairs of `o_q` and `o_k`, shaped to broadcast, may meet; `m_range` says which share a sequence."""
    if CAUSAL:
        m_range = m_range & (o_k <= o_q)
        if HAS_WINDOW:
            m_range = m_range & (o_q - o_k < window)
    elif HAS_WINDOW:
        m_range = m_range & (tl.abs(o_q - o_k) <= window)
    return m_range


@triton.jit
def key_range(row_begin, row_end, begin, end, window, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """Narrow the keys [begin, end) to those that any query of [row_begin, row_end) sees."""
    if CAUSAL:
        end = tl.minimum(end, row_end)
        if HAS_WINDOW:
            begin = tl.maximum(begin, row_begin - window + 1)
    elif HAS_WINDOW:
        begin = tl.maximum(begin, row_begin - window)
        end = tl.minimum(end, row_end + window)
    return begin, end


@triton.jit
def full_until(row_begin, begin, end, single, B: tl.constexpr, CAUSAL: tl.constexpr, HAS_WINDOW: tl.constexpr):
    """End of the leading whole blocks of keys in which every query sees every key, so that no mask is needed."""
    if HAS_WINDOW:
        return begin
    stop = tl.minimum(end, row_begin + 1) if CAUSAL else end
    whole = begin + tl.maximum(stop - begin, 0) // B * B
    return tl.where(single, whole, begin)


@triton.jit
def _attend(
    b_q,
    b_acc,
    b_max,
    b_sum,
    p_k,
    p_v,
    s_kt,
    s_vt,
    first,
    end,
    o_q,
    b_begin,
    b_end,
    scale,
    softcap,
    window,
    D: tl.constexpr,
    DV: tl.constexpr,
    BD: tl.constexpr,
    BDV: tl.constexpr,
    BN: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Bring the keys [first, first + BN) into the running softmax."""
    o_k = first + tl.arange(0, BN)
    o_d, o_dv = tl.arange(0, BD), tl.arange(0, BDV)
    p_kb = p_k + o_k[None, :].to(tl.int64) * s_kt + o_d[:, None]
    p_vb = p_v + o_k[:, None].to(tl.int64) * s_vt + o_dv[None, :]
    if MASKED:
        b_k = tl.load(p_kb, mask=(o_k[None, :] < end) & (o_d[:, None] < D), other=0.0)
    elif D != BD:
        b_k = tl.load(p_kb, mask=o_d[:, None] < D, other=0.0)
    else:
        b_k = tl.load(p_kb)
    b_s = scores_log2(tl.dot(b_q, b_k, input_precision=PRECISION), scale, softcap, HAS_SOFTCAP)
    if MASKED:
        m_range = (o_k[None, :] >= b_begin[:, None]) & (o_k[None, :] < b_end[:, None])
        b_s = tl.where(visible(o_q[:, None], o_k[None, :], m_range, window, CAUSAL, HAS_WINDOW), b_s, float("-inf"))
    b_new = tl.maximum(b_max, tl.max(b_s, 1))
    # A row may have met no key yet: -inf minus -inf would be NaN.
    b_base = tl.where(b_new == float("-inf"), 0.0, b_new) if MASKED else b_new
    b_p = tl.exp2(b_s - b_base[:, None])
    b_shrink = tl.exp2(b_max - b_base)
    b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
    if MASKED:
        b_v = tl.load(p_vb, mask=(o_k[:, None] < end) & (o_dv[None, :] < DV), other=0.0)
    elif DV != BDV:
        b_v = tl.load(p_vb, mask=o_dv[None, :] < DV, other=0.0)
    else:
        b_v = tl.load(p_vb)
    b_acc = b_acc * b_shrink[:, None]
    b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc, input_precision=PRECISION)
    return b_acc, b_new, b_sum


@triton.jit
def attention_fwd_kernel(
    p_q,
    p_k,
    p_v,
    p_o,
    p_lse,
    p_sinks,
    p_tiles,
    p_begin,
    p_end,
    s_qh,
    s_qt,
    s_kh,
    s_kt,
    s_vh,
    s_vt,
    s_ot,
    s_lse,
    scale,
    softcap,
    window,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BD: tl.constexpr,
    BDV: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    CAUSAL: tl.constexpr,
    HAS_WINDOW: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """softmax(q k^T) v and its log-sum-exp over the keys that each query sees, (total, heads, DV) and (heads, total).

    `p_tiles` is `Ragged.tiles("queries", BM)`, `p_begin` and `p_end` are `Ragged.bounds("queries")`; `p_sinks` may
    be None.
    """
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    p_tile = p_tiles + i_tile * 6
    row_begin, row_end = tl.load(p_tile), tl.load(p_tile + 1)
    single = tl.load(p_tile + 5) - tl.load(p_tile + 4) == 1
    begin, end = key_range(row_begin, row_end, tl.load(p_tile + 2), tl.load(p_tile + 3), window, CAUSAL, HAS_WINDOW)
    full = full_until(row_begin, begin, end, single, BN, CAUSAL, HAS_WINDOW)

    o_q = row_begin + tl.arange(0, BM)
    o_d, o_dv = tl.arange(0, BD), tl.arange(0, BDV)
    m_q = o_q < row_end
    b_begin = tl.load(p_begin + o_q, mask=m_q, other=0)
    b_end = tl.load(p_end + o_q, mask=m_q, other=0)
    p_qb = p_q + i_h * s_qh + o_q[:, None].to(tl.int64) * s_qt + o_d[None, :]
    b_q = tl.load(p_qb, mask=m_q[:, None] & (o_d[None, :] < D), other=0.0)
    p_k += i_h // GROUP * s_kh
    p_v += i_h // GROUP * s_vh

    b_acc = tl.zeros((BM, BDV), tl.float32)
    if p_sinks is not None:
        b_max = tl.zeros((BM,), tl.float32) + tl.load(p_sinks + i_h).to(tl.float32) * LOG2E
        b_sum = tl.zeros((BM,), tl.float32) + 1.0
    else:
        b_max = tl.full((BM,), float("-inf"), tl.float32)
        b_sum = tl.zeros((BM,), tl.float32)
    for first in range(begin, full, BN):
        b_acc, b_max, b_sum = _attend(
            b_q, b_acc, b_max, b_sum, p_k, p_v, s_kt, s_vt, first, end, o_q, b_begin, b_end, scale, softcap, window,
            D, DV, BD, BDV, BN, CAUSAL, HAS_WINDOW, HAS_SOFTCAP, PRECISION, MASKED=False,
        )  # fmt: skip
    for first in range(full, end, BN):
        b_acc, b_max, b_sum = _attend(
            b_q, b_acc, b_max, b_sum, p_k, p_v, s_kt, s_vt, first, end, o_q, b_begin, b_end, scale, softcap, window,
            D, DV, BD, BDV, BN, CAUSAL, HAS_WINDOW, HAS_SOFTCAP, PRECISION, MASKED=True,
        )  # fmt: skip

    m_seen = b_sum > 0.0
    b_sum = tl.where(m_seen, b_sum, 1.0)
    b_out = b_acc / b_sum[:, None]
    p_ob = p_o + o_q[:, None].to(tl.int64) * s_ot + i_h * DV + o_dv[None, :]
    tl.store(p_ob, b_out.to(p_o.dtype.element_ty), mask=m_q[:, None] & (o_dv[None, :] < DV))
    b_lse = tl.where(m_seen, (b_max + tl.log2(b_sum)) * LN2, float("-inf"))
    tl.store(p_lse + i_h * s_lse + o_q, b_lse, mask=m_q)
