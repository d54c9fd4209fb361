"""Attention of a few queries over long context in Triton, split along the context.

Each worker gets an equal number of context tiles, whatever sequence and head they belong to (LeanAttention, arXiv
2405.10480), and leaves a partial result where its share begins or ends inside one. Partial results merge by their
log-sum-exp: o = sum_i o_i exp(lse_i - lse), lse = log sum_i exp(lse_i). The query heads of a key head are rows of one
block, so that grouped heads read the context once. Names as in `forward_kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..attention.forward_kernel import scores_log2

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def cross_attention_split_kernel(
    p_q,
    p_k,
    p_v,
    p_part,
    p_part_lse,
    p_segments,
    p_shares,
    s_qh,
    s_qt,
    s_kh,
    s_kt,
    s_vh,
    s_vt,
    scale,
    softcap,
    GROUP: tl.constexpr,
    D: tl.constexpr,
    DV: tl.constexpr,
    BD: tl.constexpr,
    BDV: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One worker's share: partial outputs (slots, BM, BDV) and log-sum-exps in log2, (slots, BM), float32."""
    i_w = tl.program_id(0)
    o_m, o_d, o_dv = tl.arange(0, BM), tl.arange(0, BD), tl.arange(0, BDV)
    for i_s in range(tl.load(p_shares + i_w), tl.load(p_shares + i_w + 1)):
        p_segment = p_segments + i_s * 6
        first, last = tl.load(p_segment), tl.load(p_segment + 1)
        begin, end = tl.load(p_segment + 2), tl.load(p_segment + 3)
        i_kh, i_slot = tl.load(p_segment + 4).to(tl.int64), tl.load(p_segment + 5).to(tl.int64)
        # Row r is query r // GROUP of the block, head r % GROUP of the group.
        o_q = first + o_m // GROUP
        o_h = i_kh * GROUP + o_m % GROUP
        m_m = o_q < last
        p_qb = p_q + o_h[:, None] * s_qh + o_q[:, None].to(tl.int64) * s_qt + o_d[None, :]
        b_q = tl.load(p_qb, mask=m_m[:, None] & (o_d[None, :] < D), other=0.0)
        b_acc = tl.zeros((BM, BDV), tl.float32)
        b_max = tl.full((BM,), float("-inf"), tl.float32)
        b_sum = tl.zeros((BM,), tl.float32)
        for start in range(begin, end, BN):
            o_k = start + tl.arange(0, BN)
            m_k = o_k < end
            p_kb = p_k + i_kh * s_kh + o_k[None, :].to(tl.int64) * s_kt + o_d[:, None]
            p_vb = p_v + i_kh * s_vh + o_k[:, None].to(tl.int64) * s_vt + o_dv[None, :]
            b_k = tl.load(p_kb, mask=m_k[None, :] & (o_d[:, None] < D), other=0.0)
            b_s = scores_log2(tl.dot(b_q, b_k, input_precision=PRECISION), scale, softcap, HAS_SOFTCAP)
            b_s = tl.where(m_k[None, :], b_s, float("-inf"))
            b_new = tl.maximum(b_max, tl.max(b_s, 1))  # finite: a segment's blocks hold a key each
            b_p = tl.exp2(b_s - b_new[:, None])
            b_shrink = tl.exp2(b_max - b_new)
            b_sum = b_sum * b_shrink + tl.sum(b_p, 1)
            b_v = tl.load(p_vb, mask=m_k[:, None] & (o_dv[None, :] < DV), other=0.0)
            b_acc = b_acc * b_shrink[:, None]
            b_acc = tl.dot(b_p.to(b_v.dtype), b_v, b_acc, input_precision=PRECISION)
            b_max = b_new
        tl.store(p_part + (i_slot * BM + o_m[:, None]) * BDV + o_dv[None, :], b_acc / b_sum[:, None])
        tl.store(p_part_lse + i_slot * BM + o_m, b_max + tl.log2(b_sum))


@triton.jit
def cross_attention_merge_kernel(
    p_part,
    p_part_lse,
    p_o,
    p_lse,
    p_merges,
    s_ot,
    s_lse,
    GROUP: tl.constexpr,
    DV: tl.constexpr,
    BDV: tl.constexpr,
    BM: tl.constexpr,
):
    """Merge the partial results of one block of queries and key head; no slot means no context."""
    p_merge = p_merges + tl.program_id(0).to(tl.int64) * 5
    first, last = tl.load(p_merge), tl.load(p_merge + 1)
    i_kh = tl.load(p_merge + 2).to(tl.int64)
    slot, slot_end = tl.load(p_merge + 3), tl.load(p_merge + 4)
    o_m, o_dv = tl.arange(0, BM), tl.arange(0, BDV)
    b_acc = tl.zeros((BM, BDV), tl.float32)
    b_max = tl.full((BM,), float("-inf"), tl.float32)
    b_sum = tl.zeros((BM,), tl.float32)
    for i_slot in range(slot, slot_end):
        o_row = (tl.zeros((BM,), tl.int64) + i_slot) * BM + o_m
        b_part_lse = tl.load(p_part_lse + o_row)
        b_part = tl.load(p_part + o_row[:, None] * BDV + o_dv[None, :])
        b_new = tl.maximum(b_max, b_part_lse)
        b_old_share, b_share = tl.exp2(b_max - b_new), tl.exp2(b_part_lse - b_new)
        b_acc = b_acc * b_old_share[:, None] + b_part * b_share[:, None]
        b_sum = b_sum * b_old_share + b_share
        b_max = b_new
    m_seen = b_sum > 0.0
    b_sum = tl.where(m_seen, b_sum, 1.0)
    o_q = first + o_m // GROUP
    o_h = i_kh * GROUP + o_m % GROUP
    m_m = o_q < last
    p_ob = p_o + o_q[:, None].to(tl.int64) * s_ot + o_h[:, None] * DV + o_dv[None, :]
    tl.store(p_ob, (b_acc / b_sum[:, None]).to(p_o.dtype.element_ty), mask=m_m[:, None] & (o_dv[None, :] < DV))
    b_lse = tl.where(m_seen, (b_max + tl.log2(b_sum)) * LN2, float("-inf"))
    tl.store(p_lse + o_h * s_lse + o_q, b_lse, mask=m_m)
