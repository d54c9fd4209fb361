"""SPLADE pooling in Triton: the language-model head's product, whose tiles of logits never leave the chip.

A program holds one block of terms and one tile of tokens at a time, and keeps each term's running maximum. A tile is a
piece of one long sequence or several short sequences whole, and one program does all pieces of a sequence: no atomics.
Names as in `forward_kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weight_of(b_logit, scale, softcap, HAS_SOFTCAP: tl.constexpr, LOGS: tl.constexpr):
    """log(1 + relu(logit)), once or twice; LOGS = 0 leaves the raw maximum."""
    if LOGS > 0:
        b_logit = b_logit * scale
        if HAS_SOFTCAP:
            b_logit = softcap * (2.0 * tl.sigmoid(2.0 * b_logit / softcap) - 1.0)
        b_logit = tl.log(1.0 + tl.maximum(b_logit, 0.0))
        if LOGS > 1:
            b_logit = tl.log(1.0 + b_logit)
    return b_logit


@triton.jit
def splade_fwd_kernel(
    p_hidden,
    p_weight,
    p_bias,
    p_keep,
    p_out,
    p_argmax,
    p_groups,
    p_cu,
    s_t,
    s_v,
    V,
    groups,
    scale,
    softcap,
    H: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BH: tl.constexpr,
    SPAN: tl.constexpr,
    PRECISION: tl.constexpr,
    HAS_SOFTCAP: tl.constexpr,
    LOGS: tl.constexpr,
):
    """Largest logit per sequence and term, (batch, V) float32, and where p_argmax is given its token, int32.

    `p_groups` is `Ragged.groups(BM)`. SPAN groups share a stretch of programs, so that the head's block is in the cache
    when the next of them wants it.
    """
    i_p = tl.program_id(0)
    blocks = tl.cdiv(V, BV)
    first_group = i_p // (SPAN * blocks) * SPAN
    width = tl.minimum(groups - first_group, SPAN)
    rest = i_p % (SPAN * blocks)
    i_g, i_v = first_group + rest % width, rest // width
    p_group = p_groups + i_g.to(tl.int64) * 4
    begin, end = tl.load(p_group), tl.load(p_group + 1)
    sequence, sequence_end = tl.load(p_group + 2), tl.load(p_group + 3)
    single = sequence_end - sequence == 1

    o_v = i_v * BV + tl.arange(0, BV)
    o_h = tl.arange(0, BH)
    m_v = o_v < V
    p_wb = p_weight + o_v[None, :].to(tl.int64) * s_v + o_h[:, None]
    if p_bias is not None:
        b_bias = tl.load(p_bias + o_v, mask=m_v, other=0.0).to(tl.float32)
    b_best = tl.full((BV,), float("-inf"), tl.float32)
    b_token = tl.full((BV,), -1, tl.int32)
    for first in range(begin, end, BM):
        o_m = first + tl.arange(0, BM)
        m_m = o_m < end
        p_hb = p_hidden + o_m[:, None].to(tl.int64) * s_t + o_h[None, :]
        b_logits = tl.zeros((BM, BV), tl.float32)
        for h in range(0, H, BH):
            m_h = o_h < H - h
            b_hidden = tl.load(p_hb + h, mask=m_m[:, None] & m_h[None, :], other=0.0)
            b_w = tl.load(p_wb + h, mask=m_v[None, :] & m_h[:, None], other=0.0)
            b_logits = tl.dot(b_hidden, b_w, b_logits, input_precision=PRECISION)
        if p_bias is not None:
            b_logits += b_bias[None, :]
        if p_keep is not None:
            m_m = m_m & (tl.load(p_keep + o_m, mask=m_m, other=0) != 0)
        if single:
            b_masked = tl.where(m_m[:, None], b_logits, float("-inf"))
            b_max = tl.max(b_masked, 0)
            if p_argmax is not None:
                # A later token must be larger to win, so the first of equals does.
                b_first = tl.min(tl.where((b_masked == b_max[None, :]) & m_m[:, None], o_m[:, None], 2147483647), 0)
                b_token = tl.where(b_max > b_best, b_first, b_token)
            b_best = tl.maximum(b_best, b_max)
        else:
            for i_b in range(sequence, sequence_end):
                m_row = m_m & (o_m >= tl.load(p_cu + i_b)) & (o_m < tl.load(p_cu + i_b + 1))
                b_masked = tl.where(m_row[:, None], b_logits, float("-inf"))
                b_max = tl.max(b_masked, 0)
                o_out = (tl.zeros((BV,), tl.int64) + i_b) * V + o_v
                if p_argmax is not None:
                    m_best = (b_masked == b_max[None, :]) & m_row[:, None]
                    b_first = tl.min(tl.where(m_best, o_m[:, None], 2147483647), 0)
                    b_first = tl.where(b_max > float("-inf"), b_first, -1)
                    tl.store(p_argmax + o_out, b_first, mask=m_v)
                tl.store(p_out + o_out, _weight_of(b_max, scale, softcap, HAS_SOFTCAP, LOGS), mask=m_v)
    if single:
        o_out = (tl.zeros((BV,), tl.int64) + sequence) * V + o_v
        if p_argmax is not None:
            tl.store(p_argmax + o_out, b_token, mask=m_v)
        tl.store(p_out + o_out, _weight_of(b_best, scale, softcap, HAS_SOFTCAP, LOGS), mask=m_v)


@triton.jit
def splade_bwd_hidden_kernel(
    p_weight,
    p_d_out,
    p_argmax,
    p_sequence,
    p_d_hidden,
    s_v,
    s_t,
    tokens,
    V,
    H: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient by the hidden states, (tokens, H): the logits' gradient is made anew, tile by tile, from the maxima."""
    o_m = tl.program_id(0) * BM + tl.arange(0, BM)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    m_m, m_h = o_m < tokens, o_h < H
    b_row = tl.load(p_sequence + o_m, mask=m_m, other=0).to(tl.int64)
    b_d = tl.zeros((BM, BH), tl.float32)
    for v in range(0, V, BV):
        o_v = v + tl.arange(0, BV)
        m_v = o_v < V
        m_block = m_m[:, None] & m_v[None, :]
        p_block = b_row[:, None] * V + o_v[None, :]
        b_token = tl.load(p_argmax + p_block, mask=m_block, other=-1)
        b_g = tl.load(p_d_out + p_block, mask=m_block & (b_token == o_m[:, None]), other=0.0)
        b_w = tl.load(
            p_weight + o_v[:, None].to(tl.int64) * s_v + o_h[None, :], mask=m_v[:, None] & m_h[None, :], other=0.0
        )
        b_d = tl.dot(b_g.to(b_w.dtype), b_w, b_d, input_precision=PRECISION)
    p_block = p_d_hidden + o_m[:, None].to(tl.int64) * s_t + o_h[None, :]
    tl.store(p_block, b_d.to(p_d_hidden.dtype.element_ty), mask=m_m[:, None] & m_h[None, :])


@triton.jit
def splade_bwd_weight_kernel(
    p_hidden,
    p_d_out,
    p_argmax,
    p_sequence,
    p_d_weight,
    s_t,
    s_v,
    tokens,
    V,
    H: tl.constexpr,
    BM: tl.constexpr,
    BV: tl.constexpr,
    BH: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradient by the head's weight, (V, H): a program per block of terms and dimensions, over all tokens."""
    o_v = tl.program_id(0) * BV + tl.arange(0, BV)
    o_h = tl.program_id(1) * BH + tl.arange(0, BH)
    m_v, m_h = o_v < V, o_h < H
    b_d = tl.zeros((BV, BH), tl.float32)
    for first in range(0, tokens, BM):
        o_m = first + tl.arange(0, BM)
        m_m = o_m < tokens
        b_row = tl.load(p_sequence + o_m, mask=m_m, other=0).to(tl.int64)
        m_block = m_m[None, :] & m_v[:, None]
        p_block = b_row[None, :] * V + o_v[:, None]
        b_token = tl.load(p_argmax + p_block, mask=m_block, other=-1)
        b_g = tl.load(p_d_out + p_block, mask=m_block & (b_token == o_m[None, :]), other=0.0)
        b_hidden = tl.load(
            p_hidden + o_m[:, None].to(tl.int64) * s_t + o_h[None, :], mask=m_m[:, None] & m_h[None, :], other=0.0
        )
        b_d = tl.dot(b_g.to(b_hidden.dtype), b_hidden, b_d, input_precision=PRECISION)
    p_block = p_d_weight + o_v[:, None].to(tl.int64) * s_v + o_h[None, :]
    tl.store(p_block, b_d.to(p_d_weight.dtype.element_ty), mask=m_v[:, None] & m_h[None, :])
