"""Linear layers with their weights laid out for oneDNN once, and with an activation computed inside the product.

`Product` multiplies in the model's own format, `Int8Product` in 8-bit integers, which processors with VNNI do twice as
fast as bfloat16. Rows go in through `entering` and `normed`, so that the layers need not know which they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

_mkldnn: Any = torch.ops.mkldnn
_onednn: Any = torch.ops.onednn

# Largest code: a scale is rounded to bfloat16, by up to 1/256, and the code must not reach 128.
_LARGEST = 126.0


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
    def of(cls, linears: Sequence[nn.Linear], scale: Tensor | None = None) -> Self:
        """Join linear layers of one input, whose features are first multiplied by `scale`, (in,)."""
        weight, bias = joined(linears, scale)
        dtype = linears[0].weight.dtype
        return cls(_mkldnn._reorder_linear_weight(weight.to(dtype)), None if bias is None else bias.to(dtype))

    @staticmethod
    def entering(x: Tensor) -> Tensor:
        """Rows as the products take them."""
        return x

    @staticmethod
    def normed(x: Tensor, epsilon: float) -> Tensor:
        """Rows of a mean square of 1, as the products take them."""
        return unit_rms(x, epsilon)

    def __call__(self, x: Tensor) -> Tensor:
        """Return (tokens, out)."""
        return _mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")

    def silu(self, x: Tensor) -> Tensor:
        """Return the product behind a SiLU."""
        return _mkldnn._linear_pointwise(x, self.weight, self.bias, "swish", [], "")


@dataclass(frozen=True)
class Codes:
    """Rows in 8 bits, each with a step of its own, so that no text of a batch has a say in another's rounding.

    Attributes:
        rows: (tokens, in) uint8; 128 is zero.
        steps: (tokens, 1) of the format that products are returned in.
    """

    rows: Tensor
    steps: Tensor


@dataclass(frozen=True)
class Int8Product:
    """The same in 8-bit integers, with a step for each feature that comes out and for each row that goes in.

    Attributes:
        weight: (out, in) int8 in a layout of oneDNN's own.
        steps: (out,) float32.
        zeros: (out,) int64, all 0.
        bias: (out,), or None.
    """

    weight: Tensor
    steps: Tensor
    zeros: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, linears: Sequence[nn.Linear], scale: Tensor | None = None) -> Self:
        """Join linear layers of one input, whose features are first multiplied by `scale`, (in,)."""
        weight, bias = joined(linears, scale)
        steps = weight.abs().amax(1).div_(127).clamp_(min=1e-30)
        codes = weight.div_(steps[:, None]).round_().to(torch.int8)
        bias = None if bias is None else bias.to(linears[0].weight.dtype)
        return cls(_onednn.qlinear_prepack(codes, None), steps, torch.zeros(len(steps), dtype=torch.int64), bias)

    @staticmethod
    def entering(x: Tensor) -> Codes:
        """Rows as the products take them."""
        return _codes(x, None)

    @staticmethod
    def normed(x: Tensor, epsilon: float) -> Codes:
        """Rows of a mean square of 1, as the products take them."""
        return _codes(x, _inverse_rms(x, epsilon))

    def __call__(self, x: Codes) -> Tensor:
        """Return (tokens, out)."""
        y = _onednn.qlinear_pointwise(
            x.rows, 1.0, 128, self.weight, self.steps, self.zeros, None, 1.0, 0, x.steps.dtype, "none", [], ""
        )
        return y.mul_(x.steps) if self.bias is None else torch.addcmul(self.bias, y, x.steps)

    def silu(self, x: Codes) -> Tensor:
        """Return the product behind a SiLU."""
        return functional.silu(self(x), inplace=True)


AnyProduct = Product | Int8Product


def unit_rms(x: Tensor, epsilon: float) -> Tensor:
    """Give rows (..., H) a mean square of 1, in the format of `x`; the mean is taken in float32."""
    return x * _inverse_rms(x, epsilon).to(x.dtype)


def _inverse_rms(x: Tensor, epsilon: float) -> Tensor:
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    return norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


def _codes(x: Tensor, factor: Tensor | None) -> Codes:
    """Round rows (tokens, in), multiplied by `factor` (tokens, 1) first, to 253 codes around zero."""
    largest = x.abs().amax(1, keepdim=True).float()
    # Rows are divided by the step as it will be multiplied back, after its own rounding.
    steps = (largest if factor is None else largest * factor).div_(_LARGEST).clamp_(min=1e-30).to(x.dtype)
    multiplier = steps.float().reciprocal()
    multiplier = multiplier if factor is None else multiplier.mul_(factor)
    rows = (x.float() * multiplier).round_().to(torch.int8)
    return Codes(rows.view(torch.uint8).bitwise_xor_(128), steps)


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
    if not torch.backends.mkldnn.is_available() or not hasattr(_mkldnn, "_linear_pointwise"):
        return "torch was built without oneDNN"
    if dtype is torch.int8:
        # Without it sums of two products saturate at 16 bits, and vectors would be wrong.
        return None if _has("avx512_vnni") or _has("avx_vnni") or _has("amx_int8") else "this processor has no VNNI"
    if dtype is torch.float32 or (dtype is torch.bfloat16 and _mkldnn._is_mkldnn_bf16_supported()):
        return None
    return f"oneDNN has no fast {str(dtype).removeprefix('torch.')} here"


def _has(capability: str) -> bool:
    return bool(torch.cpu.get_capabilities().get(capability))
