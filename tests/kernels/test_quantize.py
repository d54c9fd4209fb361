"""Quantization: the twin against NumPy and a bound, the kernel against the twin, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decant.kernels.quantize import Calibration, QuantKind, calibrate, dequantize, quantize

SHAPES = [(1, 1), (3, 8), (5, 37), (40, 130)]


def _vectors(rows: int, width: int) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0)) * 3 + 1


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", ["int8", "uint8", "binary"])
def test_kernel_gives_the_twins_codes(kind: QuantKind, shape: tuple[int, int]) -> None:
    vectors = _vectors(*shape)
    ranges = calibrate(_vectors(7, shape[1]))  # of other vectors: some of these lie outside and are clamped
    mine = quantize(vectors, kind, ranges, implementation="triton")
    assert torch.equal(mine, quantize(vectors, kind, ranges, implementation="torch"))
    strided = torch.cat([vectors, vectors], 1)[:, : shape[1]]
    assert torch.equal(quantize(strided, kind, ranges, implementation="triton"), mine)


@pytest.mark.parametrize("kind", ["int8", "uint8"])
def test_error_is_half_a_step(kind: QuantKind) -> None:
    vectors = _vectors(50, 9)
    ranges = calibrate(vectors)
    back = dequantize(quantize(vectors, kind, ranges), kind, ranges)
    assert ((back - vectors).abs() <= ranges.step * 0.501).all()


def test_binary_is_packbits() -> None:
    vectors = _vectors(4, 21) - 1
    codes = quantize(vectors, "binary")
    assert np.array_equal(codes.numpy(), np.packbits(vectors.numpy() > 0, axis=1))
    assert torch.equal(dequantize(codes, "binary", width=21), vectors.sign())


def test_outliers_can_be_clamped() -> None:
    vectors = torch.linspace(0, 1, 101)[:, None].repeat(1, 2)
    vectors[100, 0] = 1000.0
    ranges = calibrate(vectors, outside=0.01)
    assert ranges.step[0] == pytest.approx(0.98 / 255)
    assert quantize(vectors, "uint8", ranges)[100, 0] == 255


def test_a_constant_dimension_comes_back() -> None:
    vectors = torch.full((3, 2), 0.7)
    ranges = calibrate(vectors)
    assert torch.equal(dequantize(quantize(vectors, "int8", ranges), "int8", ranges), vectors)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="needs a calibration"):
        quantize(_vectors(2, 3), "int8")
    with pytest.raises(ValueError, match="for 4 dimensions, not 3"):
        quantize(_vectors(2, 3), "int8", Calibration(torch.zeros(4), torch.ones(4)))
    with pytest.raises(ValueError, match="needs vectors"):
        calibrate(torch.zeros(0, 3))
    with pytest.raises(ValueError, match="finite"):
        calibrate(torch.tensor([[float("nan")]]))
