"""Quantization as a caller asks for it: the kernel on a GPU, else plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

from ..dispatch import Implementation, choose
from .calibration import Calibration
from .packed import QuantKind, quantize_twin


def quantize(
    vectors: Tensor,
    kind: QuantKind,
    calibration: Calibration | None = None,
    *,
    implementation: Implementation | None = None,
) -> Tensor:
    """Turn (N, D) float vectors into codes; as in `quantize_twin`, in one pass over the vectors.

    Raises:
        KernelError: if the implementation asked for cannot run.
        ValueError: if a calibration is missing or does not fit.
    """
    refusal = "float64 has no kernel" if vectors.dtype == torch.float64 else None
    if choose("quantize", vectors.device, refusal, implementation) == "torch":
        return quantize_twin(vectors, kind, calibration)
    from .triton_quantize import triton_quantize

    return triton_quantize(vectors, kind, calibration)
