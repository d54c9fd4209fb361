"""Vectors in fewer bytes: int8 and uint8 by calibrated ranges, binary by signs."""

from .calibration import Calibration, calibrate
from .dispatched import quantize
from .packed import QuantKind, dequantize, quantize_twin

__all__ = ["Calibration", "QuantKind", "calibrate", "dequantize", "quantize", "quantize_twin"]
