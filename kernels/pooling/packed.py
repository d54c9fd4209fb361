"""Pooling over a packed batch in plain PyTorch: one vector per sequence, run by run, in float32."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.layout import PackedLayout


def pool_mean(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None = None,
    *,
    weighted: bool = False,
    count_kept: bool = False,
) -> Tensor:
    """Average the kept hidden states of each sequence.

    Args:
        hidden: (total_tokens, H).
        layout: where each sequence lies.
        keep: (total_tokens,) bool, the tokens that are pooled; None for all. Each sequence keeps at least one.
        weighted: weigh a token by its position in the sequence, counted from 1 (SGPT, arXiv 2202.08904).
        count_kept: count those positions from the first kept token (LLM2Vec).

    Returns:
        (batch, H) float32.
    """
    parts: list[Tensor] = []
    for start, count, length in layout.runs:
        stop = start + count * length
        states = hidden[start:stop].unflatten(0, (count, length))
        if keep is None and not weighted:
            parts.append(torch.mean(states, dim=1, dtype=torch.float32))
        else:
            weights = torch.ones(count, length, device=hidden.device)
            if weighted:
                weights *= torch.arange(1, length + 1, device=hidden.device)
            if keep is not None:
                kept = keep[start:stop].view(count, length)
                weights = kept.cumsum(1) * kept.float() if weighted and count_kept else weights * kept
            weights /= weights.sum(1, keepdim=True)
            parts.append(torch.bmm(weights[:, None], states.float())[:, 0])
    return torch.cat(parts)


def pool_max(hidden: Tensor, layout: PackedLayout, keep: Tensor | None = None) -> Tensor:
    """Take the maximum of each hidden dimension over the kept tokens; shapes as in `pool_mean`."""
    states = hidden.float()
    if keep is not None:
        states = states.masked_fill(~keep[:, None], float("-inf"))
    parts = [
        states[start : start + count * length].unflatten(0, (count, length)).amax(1)
        for start, count, length in layout.runs
    ]
    return torch.cat(parts)


def pool_edge(hidden: Tensor, layout: PackedLayout, keep: Tensor | None = None, *, last: bool) -> Tensor:
    """Take the state of the last (or first) kept token of each sequence; shapes as in `pool_mean`."""
    starts, ends = layout.cu_seqlens[:-1].long(), layout.cu_seqlens[1:].long()
    if keep is None:
        return hidden[ends - 1 if last else starts].float()
    tokens = torch.arange(layout.total_tokens, device=hidden.device)
    rows = layout.sequence_ids()[keep]
    found = torch.empty_like(starts)
    found.scatter_reduce_(0, rows, tokens[keep], "amax" if last else "amin", include_self=False)
    return hidden[found].float()
