"""Attention in training: the packed kernels', and MAGNET's hybrid mask (arXiv 2501.08648) beside them.

The packed kernels know two masks, everything and nothing-ahead. In the third, context sees all context and a span reads
forward; it is needed in training only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from ...kernels.attention import PackedLayout, register
from ..model_config import longrope_limit

TRAINING_ATTENTION = "decant_training"


@dataclass(frozen=True)
class HybridLayout(PackedLayout):
    """A packed layout whose tokens see what `visible` says.

    Attributes:
        visible: one (count, length, length) bool a run, True where a token (row) sees another.
    """

    visible: tuple[Tensor, ...] = ()

    @classmethod
    def of(cls, layout: PackedLayout, spans: Tensor) -> HybridLayout:
        """Builds the mask of each run from `spans`, (total_tokens,) int: 0 in the context, else the span's number."""
        masks: list[Tensor] = []
        for start, count, length in layout.runs:
            masks.append(visible(spans[start : start + count * length].view(count, length)))
        return cls(layout.cu_seqlens, layout.max_seqlen, layout.runs, causal=False, visible=tuple(masks))


def visible(spans: Tensor) -> Tensor:
    """(count, length, length) bool, from span numbers (count, length).

    Context sees all context and no span. A span's token sees all context, itself, and what precedes it in its span.
    """
    length = spans.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=spans.device).tril()
    same = (spans[:, :, None] == spans[:, None, :]) & (spans > 0)[:, :, None]
    return (spans == 0)[:, None, :] | (same & before)


def refusal(model: PreTrainedModel, max_tokens: int) -> str | None:
    """Say what keeps the hybrid mask from a model's attention over so many tokens; None where nothing does."""
    parts = (model.config, *model.modules())
    windows = [window for part in parts if isinstance(window := getattr(part, "sliding_window", None), int)]
    if windows and min(windows) <= max_tokens:
        return f"its sliding window of {min(windows)} does not hold max_tokens={max_tokens}"
    for name in ("attn_logit_softcapping", "sinks"):
        if any(getattr(part, name, None) is not None for part in parts):
            return f"its attention has {name}"
    # Texts on both sides of the limit go through forwards of their own, which know nothing of the mask.
    return "its rotary positions change with the length of a batch" if longrope_limit(model.config) else None


def register_training() -> str:
    """Makes the implementation known to transformers and returns its name."""
    plain = AttentionInterface()[register()]

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        # Under autocast, rotary embeddings leave queries and keys in float32, and mixed formats have no kernel.
        query, key = query.to(value.dtype), key.to(value.dtype)
        packed = options.get("packed")
        if not isinstance(packed, HybridLayout):
            return plain(module, query, key, value, attention_mask, **options)
        return _attend(query[0], key[0], value[0], packed, options.get("scaling"))[None], None

    AttentionInterface.register(TRAINING_ATTENTION, forward)
    return TRAINING_ATTENTION


def _attend(query: Tensor, key: Tensor, value: Tensor, layout: HybridLayout, scale: float | None) -> Tensor:
    """(total_tokens, heads, dim) from (heads, total_tokens, dim) and keys and values of as many or fewer heads."""
    parts: list[Tensor] = []
    for (start, count, length), mask in zip(layout.runs, layout.visible, strict=True):
        stop = start + count * length
        q, k, v = (x[:, start:stop].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value))
        block = scaled_dot_product_attention(
            q, k, v, attn_mask=mask[:, None], scale=scale, enable_gqa=k.shape[1] != q.shape[1]
        )
        parts.append(block.transpose(1, 2).flatten(0, 1))
    parts.append(parts[0].new_zeros(layout.filling, *parts[0].shape[1:]))
    return torch.cat(parts)
