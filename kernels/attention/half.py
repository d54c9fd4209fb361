"""Bidirectional attention of bfloat16 on a CPU by batched products, which outrun PyTorch's fused kernel.

The fused kernel keeps scores in float32 and multiplies at a third of the speed that bfloat16 has here. Written out,
scores are rounded to eight bits, as in transformers' own eager attention. What that costs grows with the scores; so
where they could be large, by the lengths of queries and keys, the fused kernel stays. Where they are not, powers of two
need no largest score taken off first, and dividing what comes out is less work than dividing every weight.
"""

from __future__ import annotations

from math import e, log2

import torch
from torch import Tensor

# Scores of this size are rounded by 1/8 at most, and of the size that most have by a hundredth of that.
LARGEST_SCORE = 64.0
# Scores written out at a time; they stay in a core's cache.
_ELEMENTS = 1 << 20


def suits(query: Tensor, key: Tensor, scale: float, longest: int) -> bool:
    """Whether attention of (heads, total_tokens, D) over texts of at most `longest` tokens should be written out."""
    if query.dtype is not torch.bfloat16 or query.device.type != "cpu" or torch.is_grad_enabled():
        return False
    if longest * longest > _ELEMENTS:
        return False
    # Added up in float32 and rounded once, which costs a third of what a copy in float32 would.
    longest_query, longest_key = (float(torch.linalg.vector_norm(x, dim=-1).amax()) for x in (query, key))
    return longest_query * longest_key * abs(scale) <= LARGEST_SCORE


def half_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, out: Tensor) -> None:
    """Attend within texts of one length, where `suits` says so.

    Args:
        query: (heads, n, length, D).
        key: (kv_heads, n, length, D).
        value: (kv_heads, n, length, DV).
        scale: factor on the scores.
        out: (n, length, heads, DV), overwritten.
    """
    heads, _, length, _ = query.shape
    kv_heads = key.shape[0]
    # The queries that share a key are rows of one product.
    q = query.unflatten(0, (kv_heads, -1)).transpose(1, 2).flatten(2, 3).flatten(0, 1)
    k, v = key.flatten(0, 1).mT, value.flatten(0, 1)
    mixed, sums = v.new_empty(len(q), q.shape[1], v.shape[-1]), v.new_empty(len(q), q.shape[1], 1)
    step = max(1, _ELEMENTS // (q.shape[1] * length))
    for first in range(0, len(q), step):
        part = slice(first, first + step)
        weights = torch.baddbmm(q.new_empty(()), q[part], k[part], beta=0, alpha=scale * log2(e)).exp2_()
        torch.sum(weights, -1, keepdim=True, out=sums[part])
        torch.bmm(weights, v[part], out=mixed[part])
    mixed, sums = (x.view(kv_heads, -1, heads // kv_heads, length, x.shape[-1]) for x in (mixed, sums))
    torch.div(mixed, sums, out=out.unflatten(2, (kv_heads, -1)).permute(2, 0, 3, 1, 4))
