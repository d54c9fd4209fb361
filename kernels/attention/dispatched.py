"""Variable-length attention as models call it: the kernel where there is one for the call, else plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ..dispatch import Implementation, choose
from .layout import PackedLayout
from .packed import packed_attention, packed_attention_lse
from .refusals import refusal


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    implementation: Implementation | None = None,
) -> Tensor:
    """Let each token attend to the tokens of its own sequence; arguments and result as in `packed_attention`.

    Raises:
        KernelError: if the implementation asked for cannot run.
    """
    if _chosen(query, key, value, layout, dropout, implementation) == "torch":
        return packed_attention(
            query, key, value, layout, scale=scale, window=window, softcap=softcap, sinks=sinks, dropout=dropout
        )
    return _with_kernel(query, key, value, layout, scale, window, softcap, sinks)[0]


def attention_lse(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    implementation: Implementation | None = None,
) -> tuple[Tensor, Tensor]:
    """The same, with the log-sum-exp of each query's scores, (heads, total_tokens) float32."""
    if _chosen(query, key, value, layout, 0.0, implementation) == "torch":
        return packed_attention_lse(query, key, value, layout, scale=scale, window=window, softcap=softcap, sinks=sinks)
    return _with_kernel(query, key, value, layout, scale, window, softcap, sinks)


def _chosen(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    dropout: float,
    implementation: Implementation | None,
) -> Implementation:
    # Torch goes by runs; a batch with tables of its own has none.
    wanted = "triton" if layout.tables is not None else implementation
    return choose("attention", query.device, refusal(query, key, value, dropout), wanted)


def _with_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: PackedLayout,
    scale: float,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None,
) -> tuple[Tensor, Tensor]:
    from .triton_attention import AttentionOptions, triton_attention

    options = AttentionOptions(scale, layout.causal, window, softcap)
    return triton_attention(query, key, value, layout.ragged, options, sinks)
