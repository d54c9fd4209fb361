"""Launching the quantization kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.triton_attention import dense_rows
from ..configs import launch, lookup
from .calibration import Calibration
from .packed import QuantKind, fitting
from .quantize_kernel import quantize_binary_kernel, quantize_scalar_kernel


def triton_quantize(vectors: Tensor, kind: QuantKind, calibration: Calibration | None = None) -> Tensor:
    """Quantize with a kernel; as `quantize_twin`."""
    vectors = dense_rows(vectors)
    N, D = vectors.shape
    config = lookup("quantize", D, vectors.device)
    grid = (-(-N // config.blocks["BN"]), -(-D // config.blocks["BD"]))
    if kind == "binary":
        width = -(-D // 8)
        out = torch.empty(N, width, dtype=torch.uint8, device=vectors.device)
        launch(quantize_binary_kernel, *grid, vectors, out, vectors.stride(0), N, D, width, **config.launch())
        return out
    found = fitting(calibration, vectors, kind)
    out = torch.empty(N, D, dtype=torch.uint8 if kind == "uint8" else torch.int8, device=vectors.device)
    launch(
        quantize_scalar_kernel, *grid, vectors, found.low, found.step, out, vectors.stride(0), N, D,
        SHIFT=0 if kind == "uint8" else 128, **config.launch(),
    )  # fmt: skip
    return out
