"""Attention of a few queries over long cached context in plain PyTorch, sequence by sequence: the CPU path and twin."""

from __future__ import annotations

import torch
from torch import Tensor

from .layout import CrossLayout


def packed_cross_attention(
    query: Tensor, key: Tensor, value: Tensor, layout: CrossLayout, *, scale: float, softcap: float | None = None
) -> tuple[Tensor, Tensor]:
    """Let each query attend to the whole context of its sequence.

    Args:
        query: (heads, queries, head_dim), packed.
        key: (kv_heads, context, head_dim), packed; `heads` is a multiple of `kv_heads`.
        value: (kv_heads, context, value_dim).
        layout: where each sequence's queries and context lie.
        scale: factor on the scores.
        softcap: scores become `softcap * tanh(scores / softcap)`.

    Returns:
        (queries, heads, value_dim) of the query's dtype and the log-sum-exp of the scores, (heads, queries) float32;
        zeros and -inf for a query whose sequence has no context.
    """
    groups = query.shape[0] // key.shape[0]
    outs: list[Tensor] = []
    lses: list[Tensor] = []
    first = begin = 0
    for queries, context in zip(layout.queries, layout.context, strict=True):
        last, end = first + queries, begin + context
        q, k, v = query[:, first:last], key[:, begin:end], value[:, begin:end]
        # Grouped, not repeated: the context is the large side, and copies of it would cost more than the product.
        scores = (q.unflatten(0, (-1, groups)).flatten(1, 2) @ k.mT).float() * scale
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        weights = scores.softmax(-1).to(v.dtype) if context else scores.to(v.dtype)
        outs.append((weights @ v).unflatten(1, (groups, -1)).flatten(0, 1).transpose(0, 1))
        lses.append(scores.logsumexp(-1).unflatten(1, (groups, -1)).flatten(0, 1))
        first, begin = last, end
    if not outs:
        return query.new_zeros(0, query.shape[0], value.shape[-1]), query.new_zeros(query.shape[0], 0).float()
    return torch.cat(outs), torch.cat(lses, 1)
