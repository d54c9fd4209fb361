"""Linear layers with their weights laid out for oneDNN once, and with what follows computed inside the product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_ops: Any = torch.ops.mkldnn


@dataclass(frozen=True)
class Product:
    """x @ weight.T + bias for x (tokens, in).

    Attributes:
        weight: (out, in) in a layout of oneDNN's own.
        bias: (out,), or None.
    """

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, linears: Sequence[nn.Linear], scale: Tensor | None = None) -> Product:
        """Join linear layers of one input, whose features are first multiplied by `scale`, (in,)."""
        weight, bias = joined(linears, scale)
        dtype = linears[0].weight.dtype
        return cls(_ops._reorder_linear_weight(weight.to(dtype)), None if bias is None else bias.to(dtype))

    def __call__(self, x: Tensor) -> Tensor:
        """Return (tokens, out)."""
        return _ops._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def silu(self, x: Tensor) -> Tensor:
        """Return the product behind a SiLU."""
        return _ops._linear_pointwise(x, self.weight, self.bias, "swish", [], "")

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the product multiplied by `other`, (tokens, out)."""
        return _ops._linear_pointwise.binary(x, other, self.weight, self.bias, "mul")

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """Return the product plus `other`, (tokens, out)."""
        return _ops._linear_pointwise.binary(x, other, self.weight, self.bias, "add")


@torch.no_grad()
def joined(linears: Sequence[nn.Linear], scale: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Stack weights, (out, in) float32, and biases, (out,) float32 or None where no layer has one."""
    weight = torch.cat([linear.weight.float() for linear in linears])
    if scale is not None:
        weight = weight * scale.float()
    biases: list[Tensor | None] = [linear.bias for linear in linears]
    if all(bias is None for bias in biases):
        return weight, None
    rows = zip(biases, linears, strict=True)
    return weight, torch.cat([torch.zeros(m.out_features) if bias is None else bias.float() for bias, m in rows])


def unavailable(dtype: torch.dtype) -> str | None:
    """Say why oneDNN cannot multiply in this format here; None where it can."""
    if not torch.backends.mkldnn.is_available() or not hasattr(_ops, "_linear_pointwise"):
        return "torch was built without oneDNN"
    if dtype is torch.float32 or (dtype is torch.bfloat16 and _ops._is_mkldnn_bf16_supported()):
        return None
    return f"oneDNN has no fast {str(dtype).removeprefix('torch.')} here"
