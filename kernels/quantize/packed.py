"""Quantization in plain PyTorch: the CPU path and the kernel's twin."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .calibration import LEVELS, Calibration

QuantKind = Literal["int8", "uint8", "binary"]


def quantize_twin(vectors: Tensor, kind: QuantKind, calibration: Calibration | None = None) -> Tensor:
    """Turn (N, D) float vectors into codes.

    Args:
        vectors: finite.
        kind: `int8` and `uint8` round to the nearest of 256 values of the calibrated range; `binary` keeps signs,
            eight to a byte, the first dimension in the highest bit (as `numpy.packbits`).
        calibration: ranges; `binary` has none.

    Returns:
        (N, D) int8 or uint8, or (N, ceil(D / 8)) uint8; missing bits of the last byte are 0.

    Raises:
        ValueError: if a calibration is missing or does not fit.
    """
    if kind == "binary":
        N, D = vectors.shape
        bits = torch.zeros(N, -(-D // 8) * 8, dtype=torch.uint8, device=vectors.device)
        bits[:, :D] = vectors > 0
        places = 2 ** torch.arange(7, -1, -1, device=vectors.device, dtype=torch.uint8)
        return (bits.view(N, -1, 8) * places).sum(-1, dtype=torch.uint8)
    calibration = fitting(calibration, vectors, kind)
    codes = ((vectors.float() - calibration.low) / calibration.step + 0.5).floor().clamp(0, LEVELS)
    return codes.to(torch.uint8) if kind == "uint8" else (codes - 128).to(torch.int8)


def dequantize(
    codes: Tensor, kind: QuantKind, calibration: Calibration | None = None, width: int | None = None
) -> Tensor:
    """Return the float32 vectors that codes stand for, (N, D); signs -1 and 1 for `binary`, `width` of them."""
    if kind == "binary":
        places = torch.arange(7, -1, -1, device=codes.device, dtype=torch.uint8)
        bits = (codes[:, :, None] >> places) & 1
        return bits.flatten(1)[:, :width].float() * 2 - 1
    calibration = fitting(calibration, codes, kind)
    values = codes.float() + (128 if kind == "int8" else 0)
    return values * calibration.step + calibration.low


def fitting(calibration: Calibration | None, vectors: Tensor, kind: QuantKind) -> Calibration:
    """Return the calibration where the vectors are, or say what is wrong with it.

    Raises:
        ValueError: if it is missing or made for another width.
    """
    if calibration is None:
        raise ValueError(f"{kind} needs a calibration: measure one with calibrate()")
    if calibration.low.shape[0] != vectors.shape[1]:
        raise ValueError(f"the calibration is for {calibration.low.shape[0]} dimensions, not {vectors.shape[1]}")
    return calibration.to(vectors.device)
