"""Vectors as bytes: float32, float16, int8 with a scale, or one bit per value."""

from __future__ import annotations

from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from ..embedder import InputError


class VectorFormat(StrEnum):
    """How the values of a vector are packed; all little-endian."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    INT8 = "int8"
    UBINARY = "ubinary"


def pack(vector: NDArray[np.float32], form: VectorFormat) -> tuple[bytes, float]:
    """Pack one vector (D,).

    Returns:
        The bytes, and the factor that turns the packed values into the vector's (1 where they are the vector's).
        int8 uses each vector's own largest value, so that nothing has to be calibrated; ubinary is a bit per value,
        set where it is positive, the first in the highest bit, as sentence-transformers packs them.

    Raises:
        InputError: float16 cannot hold the values.
    """
    match form:
        case VectorFormat.FLOAT32:
            return vector.astype("<f4", copy=False).tobytes(), 1.0
        case VectorFormat.FLOAT16:
            with np.errstate(over="ignore"):
                half = vector.astype("<f2")
            if not np.isfinite(half).all():
                raise InputError("the vector's values are too large for float16: ask for float32")
            return half.tobytes(), 1.0
        case VectorFormat.INT8:
            scale = float(np.abs(vector).max()) / 127
            return np.rint(vector / (scale or 1.0)).astype(np.int8).tobytes(), scale
        case VectorFormat.UBINARY:
            return np.packbits(vector > 0).tobytes(), 1.0


def unpack(data: bytes, form: VectorFormat, dimensions: int, scale: float = 1.0) -> NDArray[np.float32]:
    """Undo `pack` as far as it can be: (dimensions,) float32; bits become 1 and -1."""
    match form:
        case VectorFormat.FLOAT32:
            return np.frombuffer(data, "<f4").astype(np.float32)
        case VectorFormat.FLOAT16:
            return np.frombuffer(data, "<f2").astype(np.float32)
        case VectorFormat.INT8:
            return np.frombuffer(data, np.int8).astype(np.float32) * np.float32(scale)
        case VectorFormat.UBINARY:
            bits = np.unpackbits(np.frombuffer(data, np.uint8), count=dimensions)
            return bits.astype(np.float32) * 2 - 1
