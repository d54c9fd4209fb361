"""Variable-length attention, backward, in Triton: one kernel per side, no atomics, so gradients are deterministic.

With p = exp(s - lse) and delta = rowsum(dO * O): dV = p^T dO, dS = p * (dO V^T - delta), dQ = dS K, dK = dS^T Q
(FlashAttention-2, arXiv 2307.08691). Names as in `forward_kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .forward_kernel import LOG2E, key_range, scores_log2, visible


@triton.jit
def _score_gradient(b_p, b_dp, b_delta, b_s, softcap, HAS_SOFTCAP: tl.constexpr):
    """Gradient of the loss by the scores before the cap; `b_s` are capped scores times log2(e)."""
    b_ds = b_p * (b_dp - b_delta)
    if HAS_SOFTCAP:
        b_capped = b_s / (softcap * LOG2E)
        b_ds = tl.where(b_p == 0.0, 0.0, b_ds * (1.0 - b_capped * b_capped))
    return b_ds


@triton.jit
def attention_bwd_dq_kernel(
    p_q,
    p_k,
    p_v,
    p_do,
    p_lse,
    p_delta,
    p_dq,
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
    s_dqh,
    s_dqt,
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
    """Gradient by the queries, (heads, total, D): a program per tile of queries and head."""
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    p_tile = p_tiles + i_tile * 6
    row_begin, row_end = tl.load(p_tile), tl.load(p_tile + 1)
    begin, end = key_range(row_begin, row_end, tl.load(p_tile + 2), tl.load(p_tile + 3), window, CAUSAL, HAS_WINDOW)
    o_q = row_begin + tl.arange(0, BM)
    o_d, o_dv = tl.arange(0, BD), tl.arange(0, BDV)
    m_q, m_d, m_dv = o_q < row_end, o_d < D, o_dv < DV
    b_begin = tl.load(p_begin + o_q, mask=m_q, other=0)
    b_end = tl.load(p_end + o_q, mask=m_q, other=0)
    p_qb = p_q + i_h * s_qh + o_q[:, None].to(tl.int64) * s_qt + o_d[None, :]
    p_dob = p_do + o_q[:, None].to(tl.int64) * s_ot + i_h * DV + o_dv[None, :]
    b_q = tl.load(p_qb, mask=m_q[:, None] & m_d[None, :], other=0.0)
    b_do = tl.load(p_dob, mask=m_q[:, None] & m_dv[None, :], other=0.0)
    b_lse = tl.load(p_lse + i_h * s_lse + o_q, mask=m_q, other=0.0) * LOG2E
    b_delta = tl.load(p_delta + i_h * s_lse + o_q, mask=m_q, other=0.0)
    p_k += i_h // GROUP * s_kh
    p_v += i_h // GROUP * s_vh

    b_dq = tl.zeros((BM, BD), tl.float32)
    for first in range(begin, end, BN):
        o_k = first + tl.arange(0, BN)
        m_k = o_k < end
        p_kb = p_k + o_k[:, None].to(tl.int64) * s_kt + o_d[None, :]
        p_vb = p_v + o_k[:, None].to(tl.int64) * s_vt + o_dv[None, :]
        b_k = tl.load(p_kb, mask=m_k[:, None] & m_d[None, :], other=0.0)
        b_v = tl.load(p_vb, mask=m_k[:, None] & m_dv[None, :], other=0.0)
        b_dot = tl.dot(b_q, tl.trans(b_k), input_precision=PRECISION)
        b_s = scores_log2(b_dot, scale, softcap, HAS_SOFTCAP)
        m_range = (o_k[None, :] >= b_begin[:, None]) & (o_k[None, :] < b_end[:, None])
        m_pairs = visible(o_q[:, None], o_k[None, :], m_range, window, CAUSAL, HAS_WINDOW)
        b_p = tl.exp2(tl.where(m_pairs, b_s - b_lse[:, None], float("-inf")))
        b_dp = tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
        b_ds = _score_gradient(b_p, b_dp, b_delta[:, None], b_s, softcap, HAS_SOFTCAP)
        b_dq = tl.dot(b_ds.to(b_k.dtype), b_k, b_dq, input_precision=PRECISION)
    p_dqb = p_dq + i_h * s_dqh + o_q[:, None].to(tl.int64) * s_dqt + o_d[None, :]
    tl.store(p_dqb, (b_dq * scale).to(p_dq.dtype.element_ty), mask=m_q[:, None] & m_d[None, :])


@triton.jit
def attention_bwd_dkv_kernel(
    p_q,
    p_k,
    p_v,
    p_do,
    p_lse,
    p_delta,
    p_dk,
    p_dv,
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
    s_dkh,
    s_dkt,
    s_dvh,
    s_dvt,
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
    """Gradients by keys and values, (kv_heads, total, D or DV): a program per tile of BN keys and key head.

    It goes through all query heads of its group itself. `p_tiles` is `Ragged.tiles("keys", BN)`, `p_begin` and
    `p_end` are `Ragged.bounds("keys")`.
    """
    i_tile, i_h = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    p_tile = p_tiles + i_tile * 6
    row_begin, row_end = tl.load(p_tile), tl.load(p_tile + 1)
    begin, end = tl.load(p_tile + 2), tl.load(p_tile + 3)
    if CAUSAL:
        begin = tl.maximum(begin, row_begin)
        if HAS_WINDOW:
            end = tl.minimum(end, row_end + window - 1)
    elif HAS_WINDOW:
        begin = tl.maximum(begin, row_begin - window)
        end = tl.minimum(end, row_end + window)
    o_k = row_begin + tl.arange(0, BN)
    o_d, o_dv = tl.arange(0, BD), tl.arange(0, BDV)
    m_k, m_d, m_dv = o_k < row_end, o_d < D, o_dv < DV
    b_begin = tl.load(p_begin + o_k, mask=m_k, other=0)
    b_end = tl.load(p_end + o_k, mask=m_k, other=0)
    p_kb = p_k + i_h * s_kh + o_k[:, None].to(tl.int64) * s_kt + o_d[None, :]
    p_vb = p_v + i_h * s_vh + o_k[:, None].to(tl.int64) * s_vt + o_dv[None, :]
    b_k = tl.load(p_kb, mask=m_k[:, None] & m_d[None, :], other=0.0)
    b_v = tl.load(p_vb, mask=m_k[:, None] & m_dv[None, :], other=0.0)

    b_dk = tl.zeros((BN, BD), tl.float32)
    b_dv = tl.zeros((BN, BDV), tl.float32)
    for i_g in range(GROUP):
        i_qh = i_h * GROUP + i_g
        for first in range(begin, end, BM):
            o_q = first + tl.arange(0, BM)
            m_q = o_q < end
            p_qb = p_q + i_qh * s_qh + o_q[:, None].to(tl.int64) * s_qt + o_d[None, :]
            p_dob = p_do + o_q[:, None].to(tl.int64) * s_ot + i_qh * DV + o_dv[None, :]
            b_q = tl.load(p_qb, mask=m_q[:, None] & m_d[None, :], other=0.0)
            b_do = tl.load(p_dob, mask=m_q[:, None] & m_dv[None, :], other=0.0)
            b_lse = tl.load(p_lse + i_qh * s_lse + o_q, mask=m_q, other=0.0) * LOG2E
            b_delta = tl.load(p_delta + i_qh * s_lse + o_q, mask=m_q, other=0.0)
            b_dot = tl.dot(b_k, tl.trans(b_q), input_precision=PRECISION)
            b_s = scores_log2(b_dot, scale, softcap, HAS_SOFTCAP)
            m_range = (o_q[None, :] >= b_begin[:, None]) & (o_q[None, :] < b_end[:, None])
            m_pairs = visible(o_q[None, :], o_k[:, None], m_range, window, CAUSAL, HAS_WINDOW)
            b_p = tl.exp2(tl.where(m_pairs, b_s - b_lse[None, :], float("-inf")))
            b_dv = tl.dot(b_p.to(b_do.dtype), b_do, b_dv, input_precision=PRECISION)
            b_dp = tl.dot(b_v, tl.trans(b_do), input_precision=PRECISION)
            b_ds = _score_gradient(b_p, b_dp, b_delta[None, :], b_s, softcap, HAS_SOFTCAP)
            b_dk = tl.dot(b_ds.to(b_q.dtype), b_q, b_dk, input_precision=PRECISION)
    p_dkb = p_dk + i_h * s_dkh + o_k[:, None].to(tl.int64) * s_dkt + o_d[None, :]
    p_dvb = p_dv + i_h * s_dvh + o_k[:, None].to(tl.int64) * s_dvt + o_dv[None, :]
    tl.store(p_dkb, (b_dk * scale).to(p_dk.dtype.element_ty), mask=m_k[:, None] & m_d[None, :])
    tl.store(p_dvb, b_dv.to(p_dv.dtype.element_ty), mask=m_k[:, None] & m_dv[None, :])
