"""One cross-attention block: queries of the decoder over keys and values made of cached states once.

x + gate o(attention(q(ln_1 x), K, V)), then x + gate mlp(ln_2 x). Norms are layer norms with bias, the feed-forward
part is SwiGLU. Rotary positions turn queries at the decoder's positions and keys at the context's, from 0 on; there is
no causal mask. Names are those of the official checkpoints.

Shapes: B sequences, L decoder tokens each, N context tokens of all sequences packed, D decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...kernels.cross_attention import CrossLayout, cross_attention
from .config import XcConfig


@dataclass(frozen=True)
class Memory:
    """Keys and values of a batch's contexts for one block.

    Attributes:
        key: (kv_heads, N, head) turned to their positions; value: the same shape.
        lengths: context tokens of each sequence.
    """

    key: Tensor
    value: Tensor
    lengths: tuple[int, ...]


class CrossAttention(nn.Module):
    """Projections of a block."""

    def __init__(self, config: XcConfig) -> None:
        super().__init__()
        keys = config.kv_heads * config.head_width
        self.config = config
        self.q_proj = nn.Linear(config.decoder_width, config.hidden, bias=config.bias)
        self.k_proj = nn.Linear(config.context_width, keys, bias=config.bias)
        self.v_proj = nn.Linear(config.context_width, keys, bias=config.bias)
        self.o_proj = nn.Linear(config.hidden, config.decoder_width, bias=config.bias)

    def remember(self, states: Tensor, lengths: Sequence[int]) -> Memory:
        """Make keys and values of (N, context_width) states; positions run on within a sequence's `lengths` tokens."""
        places = torch.cat([torch.arange(length, device=states.device) for length in lengths] or [states.new_zeros(0)])
        heads = (-1, self.config.kv_heads, self.config.head_width)
        key = rotate(self.k_proj(states).view(heads).transpose(0, 1), places, self.config.rope_theta)
        return Memory(key, self.v_proj(states).view(heads).transpose(0, 1), tuple(lengths))

    def forward(self, x: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """(B, L, D) at (B, L) positions to (B, L, D); one context serves all sequences, as those of a beam search."""
        batch, length, _ = x.shape
        query = self.q_proj(x).view(batch * length, self.config.heads, -1).transpose(0, 1)
        query = rotate(query, positions.expand(batch, length).reshape(-1), self.config.rope_theta)
        queries = [batch * length] if len(memory.lengths) == 1 else [length] * batch
        layout = CrossLayout(queries, memory.lengths, x.device)
        out, _ = cross_attention(query, memory.key, memory.value, layout, scale=self.config.head_width**-0.5)
        return self.o_proj(out.reshape(batch, length, -1))


class Mlp(nn.Module):
    """SwiGLU."""

    def __init__(self, config: XcConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.decoder_width, config.inner, bias=False)
        self.up_proj = nn.Linear(config.decoder_width, config.inner, bias=False)
        self.down_proj = nn.Linear(config.inner, config.decoder_width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, D) to (B, L, D)."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class CrossBlock(nn.Module):
    """A block, ready to stand before or behind a decoder layer."""

    def __init__(self, config: XcConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.decoder_width, eps=config.eps)
        self.crossattention = CrossAttention(config)
        self.ln_2 = nn.LayerNorm(config.decoder_width, eps=config.eps)
        self.mlp = Mlp(config)
        self.dropout = nn.Dropout(config.dropout)
        self.gates = nn.Parameter(torch.zeros(2)) if config.gate else None

    def forward(self, x: Tensor, positions: Tensor, memory: Memory) -> Tensor:
        """(B, L, D) at (B, L) positions to (B, L, D)."""
        attention, wide = torch.tanh(self.gates) if self.gates is not None else (1.0, 1.0)
        x = x + attention * self.dropout(self.crossattention(self.ln_1(x), positions, memory))
        return x + wide * self.mlp(self.ln_2(x))

    @torch.no_grad()
    def initialize(self, std: float) -> None:
        """Truncated normal weights, as the official model begins."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)

    @torch.no_grad()
    def initialize_from(self, layer: nn.Module) -> None:
        """Take projections from a decoder layer, as CEPE (arXiv 2402.16617); what is narrower takes the first rows."""
        own = cast(nn.Module, layer.self_attn)
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            target = cast(nn.Linear, getattr(self.crossattention, name)).weight
            source = cast(nn.Linear, getattr(own, name)).weight
            rows, columns = min(target.shape[0], source.shape[0]), min(target.shape[1], source.shape[1])
            target[:rows, :columns] = source[:rows, :columns].to(target.dtype)


def rotate(x: Tensor, places: Tensor, theta: float) -> Tensor:
    """Rotary positions (arXiv 2104.09864) in Llama's layout: (heads, N, W) turned by (N,) places."""
    half = x.shape[-1] // 2
    frequency = theta ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = places.float()[:, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
