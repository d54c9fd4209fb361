"""Latent attention pooling (NV-Embed, arXiv 2405.17428) over a packed batch in plain PyTorch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..attention.layout import PackedLayout
from .fused import pool

# Tokens a block is computed for at once: at NV-Embed's sizes their feed-forward states take 64 MiB in float32.
TILE_TOKENS = 512


@dataclass(frozen=True)
class LatentWeights:
    """Weights of the block; linear weights are (out, in) as in `torch.nn.Linear`.

    Attributes:
        latents: (latents, H), the learned keys and values.
        norm: weight and bias, (H,) each, of the layer norm over tokens before attention.
        norm_context: the same over latents.
        to_q: (heads * head_dim, H).
        to_kv: (2 * heads * head_dim, H), keys above values.
        to_out: (H, heads * head_dim).
        norm_ff: as `norm`, before the feed-forward.
        ff_in: weight (2 * inner, H) and bias (2 * inner,), values above gates.
        ff_out: weight (H, inner) and bias (H,).
        heads: number of attention heads.
    """

    latents: Tensor
    norm: tuple[Tensor, Tensor]
    norm_context: tuple[Tensor, Tensor]
    to_q: Tensor
    to_kv: Tensor
    to_out: Tensor
    norm_ff: tuple[Tensor, Tensor]
    ff_in: tuple[Tensor, Tensor]
    ff_out: tuple[Tensor, Tensor]
    heads: int


def latent_keys_values(weights: LatentWeights) -> tuple[Tensor, Tensor]:
    """Return keys and values of the latents, (heads, latents, head_dim) each: they depend on no text."""
    context = functional.layer_norm(weights.latents, weights.latents.shape[-1:], *weights.norm_context)
    keys, values = functional.linear(context, weights.to_kv).chunk(2, dim=-1)
    keys, values = (x.unflatten(-1, (weights.heads, -1)).transpose(0, 1) for x in (keys, values))
    return keys, values


def latent_attention(hidden: Tensor, weights: LatentWeights, keys: Tensor, values: Tensor) -> Tensor:
    """Let every token attend to the latents, then pass the feed-forward; residuals around both, norms before.

    Args:
        hidden: (tokens, H); no token sees another one.
        weights: the block.
        keys: (heads, latents, head_dim), from `latent_keys_values`.
        values: of the same shape.

    Returns:
        (tokens, H) in the dtype of `hidden`.
    """
    normed = functional.layer_norm(hidden, hidden.shape[-1:], *weights.norm)
    query = functional.linear(normed, weights.to_q).unflatten(-1, (weights.heads, -1)).transpose(0, 1)
    attended = functional.scaled_dot_product_attention(query[None], keys[None], values[None])[0]
    hidden = functional.linear(attended.transpose(0, 1).flatten(1), weights.to_out) + hidden
    normed = functional.layer_norm(hidden, hidden.shape[-1:], *weights.norm_ff)
    inner, gates = functional.linear(normed, *weights.ff_in).chunk(2, dim=-1)
    return functional.linear(inner * functional.gelu(gates), *weights.ff_out) + hidden


def pool_latent(
    hidden: Tensor,
    layout: PackedLayout,
    keep: Tensor | None,
    weights: LatentWeights,
    keys_values: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Pass every token through the block and average the kept ones of each sequence.

    Args:
        hidden: (total_tokens, H).
        layout: where each sequence lies.
        keep: (total_tokens,) bool, the tokens that are pooled; None for all. Each sequence keeps at least one.
        weights: the block.
        keys_values: what `latent_keys_values(weights)` gave, where the weights have not changed since.

    Returns:
        (batch, H) float32.
    """
    keys, values = keys_values or latent_keys_values(weights)
    tiles = hidden.to(weights.to_q.dtype).split(TILE_TOKENS)
    states = torch.cat([latent_attention(tile, weights, keys, values) for tile in tiles])
    return pool(states, layout, keep, mode="mean")
