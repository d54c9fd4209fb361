"""The range of values each dimension is quantized over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = 255


@dataclass(frozen=True)
class Calibration:
    """One range per dimension, cut into 255 equal steps.

    Attributes:
        low: (D,) float32, the value that becomes the lowest code; what lies below does too.
        step: (D,) float32, positive.
    """

    low: Tensor
    step: Tensor

    def to(self, device: torch.device) -> Calibration:
        """The same on another device."""
        return Calibration(self.low.to(device), self.step.to(device))


def calibrate(vectors: Tensor, *, outside: float = 0.0) -> Calibration:
    """Measure ranges on a sample of vectors.

    Args:
        vectors: (N, D) float, as they will be quantized; some thousands say enough.
        outside: fraction of a dimension's values that may fall outside on each side and be clamped, where a few
            outliers would make all steps coarse.

    Raises:
        ValueError: for an empty sample, values that are not finite, or a fraction outside [0, 0.5).
    """
    if vectors.ndim != 2 or not len(vectors):
        raise ValueError(f"calibration needs vectors, (N, D) with N > 0, not {tuple(vectors.shape)}")
    if not 0.0 <= outside < 0.5:
        raise ValueError(f"outside must lie in [0, 0.5), not {outside}")
    if not bool(vectors.isfinite().all()):
        raise ValueError("calibration needs finite vectors: leave out those with NaN or infinity")
    vectors = vectors.float()
    if outside:
        ordered = vectors.sort(0).values
        skip = int(outside * len(vectors))
        low, high = ordered[skip], ordered[len(vectors) - 1 - skip]
    else:
        low, high = vectors.amin(0), vectors.amax(0)
    # A dimension that never varies has any step; it comes back as its one value.
    step = torch.where(high > low, (high - low) / LEVELS, torch.ones_like(low))
    return Calibration(low, step)
