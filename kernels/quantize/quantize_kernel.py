"""Quantization in Triton: one pass, a program per block of rows and dimensions. Names as in `forward_kernel`."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def quantize_scalar_kernel(
    p_x, p_low, p_step, p_out, s_x, N, D, SHIFT: tl.constexpr, BN: tl.constexpr, BD: tl.constexpr
):
    """Codes 0 to 255, lowered by SHIFT, (N, D)."""
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    o_d = tl.program_id(1) * BD + tl.arange(0, BD)
    m_d = o_d < D
    m_block = (o_n[:, None] < N) & m_d[None, :]
    b_low = tl.load(p_low + o_d, mask=m_d, other=0.0)
    b_step = tl.load(p_step + o_d, mask=m_d, other=1.0)
    b_x = tl.load(p_x + o_n[:, None] * s_x + o_d[None, :], mask=m_block, other=0.0).to(tl.float32)
    # A division, not a product with the reciprocal: codes must not depend on where they were made.
    b_code = tl.floor(tl.div_rn(b_x - b_low[None, :], tl.broadcast_to(b_step[None, :], b_x.shape)) + 0.5)
    b_code = tl.minimum(tl.maximum(b_code, 0.0), 255.0).to(tl.int32) - SHIFT
    tl.store(p_out + o_n[:, None] * D + o_d[None, :], b_code.to(p_out.dtype.element_ty), mask=m_block)


@triton.jit
def quantize_binary_kernel(p_x, p_out, s_x, N, D, DB, BN: tl.constexpr, BD: tl.constexpr):
    """Signs, eight to a byte, first dimension in the highest bit, (N, DB)."""
    o_n = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    o_b = tl.program_id(1) * (BD // 8) + tl.arange(0, BD // 8)
    o_j = tl.arange(0, 8)
    o_d = o_b[None, :, None] * 8 + o_j[None, None, :]
    m_block = (o_n[:, None, None] < N) & (o_d < D)
    b_x = tl.load(p_x + o_n[:, None, None] * s_x + o_d, mask=m_block, other=0.0)
    b_byte = tl.sum((b_x > 0.0).to(tl.int32) << (7 - o_j)[None, None, :], 2)
    m_store = (o_n[:, None] < N) & (o_b[None, :] < DB)
    tl.store(p_out + o_n[:, None] * DB + o_b[None, :], b_byte.to(tl.uint8), mask=m_store)
