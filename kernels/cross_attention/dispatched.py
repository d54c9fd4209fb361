"""Cross-attention as a generator calls it: the kernel where there is one for the call, else plain PyTorch."""

from __future__ import annotations

from torch import Tensor

from ..attention.refusals import refusal
from ..dispatch import Implementation, choose
from .layout import CrossLayout
from .packed import packed_cross_attention


def cross_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: CrossLayout,
    *,
    scale: float,
    softcap: float | None = None,
    implementation: Implementation | None = None,
) -> tuple[Tensor, Tensor]:
    """Let each query attend to the whole context of its sequence; as in `packed_cross_attention`.

    Raises:
        KernelError: if the implementation asked for cannot run.
    """
    chosen = choose("cross_attention", query.device, refusal(query, key, value), implementation)
    if chosen == "torch":
        return packed_cross_attention(query, key, value, layout, scale=scale, softcap=softcap)
    from .triton_cross import triton_cross_attention

    return triton_cross_attention(query, key, value, layout, scale=scale, softcap=softcap)
