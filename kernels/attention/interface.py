"""Packed attention as a transformers attention implementation, so that stock decoder classes run on packed batches.

The layout travels through the forward's keyword arguments (`packed=PackedLayout`); nothing is kept between calls and
no global is switched, so threads cannot disturb each other.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from transformers import AttentionInterface

from .dispatched import attention
from .layout import PackedLayout

ATTENTION_NAME = "decant_packed"

# What a model may hand to an attention function without changing what is computed: caches are off, masks come from
# the layout, and the rest describes how some other implementation would be called.
_WITHOUT_EFFECT = frozenset(
    {
        "is_causal",
        "position_ids",
        "cache_position",
        "use_cache",
        "past_key_values",
        "output_attentions",
        "output_hidden_states",
        "output_router_logits",
        "return_dict",
        "position_embeddings",
        "cu_seq_lens_q",
        "cu_seq_lens_k",
        "max_length_q",
        "max_length_k",
        "deterministic",
    }
)


def _attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    packed: PackedLayout | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """Compute one layer's attention; query (1, heads, total_tokens, head_dim), result (1, total_tokens, heads, dim).

    Raises:
        NotImplementedError: if the model asks for something this implementation would have to ignore.
    """
    if packed is None:
        raise NotImplementedError("the model does not pass keyword arguments on to its attention")
    if attention_mask is not None:
        raise NotImplementedError("the model builds an attention mask of its own")
    unknown = [name for name, value in options.items() if value is not None and name not in _WITHOUT_EFFECT]
    if unknown:
        raise NotImplementedError(f"the model's attention needs {', '.join(sorted(unknown))}")
    if packed.trace is not None:
        packed.trace.append(module)
    out = attention(
        query[0],
        key[0],
        value[0],
        packed,
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        window=sliding_window,
        softcap=softcap,
        sinks=s_aux,
        dropout=dropout if module.training else 0.0,
    )
    return out[None], None


def register() -> str:
    """Make packed attention known to transformers and return its name, for `attn_implementation=`."""
    AttentionInterface.register(ATTENTION_NAME, _attention_forward)
    return ATTENTION_NAME
