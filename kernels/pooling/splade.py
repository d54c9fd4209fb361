"""SPLADE pooling (arXiv 2109.10086) over a packed batch in plain PyTorch, without the logits of a whole batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.layout import PackedLayout

# Tokens whose logits exist at once: with 128k terms they take 64 MiB in float32.
TILE_TOKENS = 128


def max_logits(
    hidden: Tensor, layout: PackedLayout, keep: Tensor | None, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Take each term's largest logit over the kept tokens of each sequence.

    What SPLADE does to a logit grows with it, so the maximum can come first and the logarithm is taken once per text.

    Args:
        hidden: (total_tokens, H).
        layout: where each sequence lies.
        keep: (total_tokens,) bool, the tokens that take part; None for all.
        weight: (V, H), the language-model head.
        bias: (V,), or None.

    Returns:
        (batch, V) float32, -inf in the rows of sequences that keep no token.
    """
    parts: list[Tensor] = []
    for start, count, length in layout.runs:
        for first in range(0, count, step := max(1, TILE_TOKENS // length)):
            sequences = min(step, count - first)
            begin = start + first * length
            rows = hidden.new_full((sequences, weight.shape[0]), float("-inf"), dtype=torch.float32)
            # One sequence may be longer than a tile; several fit into one only whole.
            width = length if sequences > 1 else min(length, TILE_TOKENS)
            for offset in range(0, length, width):
                stop = min(offset + width, length)
                tokens = slice(begin + offset, begin + sequences * length if sequences > 1 else begin + stop)
                logits = functional.linear(hidden[tokens], weight, bias).float()
                if keep is not None:
                    logits = logits.masked_fill(~keep[tokens, None], float("-inf"))
                rows = torch.maximum(rows, logits.unflatten(0, (sequences, -1)).amax(1))
            parts.append(rows)
    return torch.cat(parts)


def splade_weights(logits: Tensor, *, double_log: bool = False) -> Tensor:
    """Turn logits into term weights, log(1 + relu(logit)); `double_log` takes it twice (arXiv 2504.14839)."""
    weights = torch.log1p(torch.relu(logits))
    return torch.log1p(weights) if double_log else weights
