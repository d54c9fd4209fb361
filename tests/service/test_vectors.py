from __future__ import annotations

import numpy as np
import pytest

from decant.embedder import InputError
from decant.service.vectors import VectorFormat, pack, unpack

VECTOR = np.random.default_rng(0).standard_normal(13).astype(np.float32)


@pytest.mark.parametrize(
    ("form", "size", "bound"),
    [(VectorFormat.FLOAT32, 52, 0.0), (VectorFormat.FLOAT16, 26, 2e-3), (VectorFormat.INT8, 13, 2e-2)],
)
def test_a_packed_vector_comes_back(form: VectorFormat, size: int, bound: float) -> None:
    data, scale = pack(VECTOR, form)
    assert len(data) == size
    assert np.abs(unpack(data, form, 13, scale) - VECTOR).max() <= bound


def test_bits_are_packed_as_sentence_transformers_packs_them() -> None:
    from sentence_transformers.util import quantize_embeddings

    data, _ = pack(VECTOR, VectorFormat.UBINARY)
    assert data == quantize_embeddings(VECTOR[None], "ubinary")[0].tobytes()
    assert (unpack(data, VectorFormat.UBINARY, 13) == np.where(VECTOR > 0, 1, -1)).all()


def test_int8_uses_its_whole_range_and_zero_stays_zero() -> None:
    data, scale = pack(VECTOR * 1e-4, VectorFormat.INT8)
    assert np.abs(np.frombuffer(data, np.int8)).max() == 127 and scale > 0
    assert not np.any(unpack(*pack(np.zeros(4, np.float32), VectorFormat.INT8)[:1], VectorFormat.INT8, 4))


def test_values_that_float16_cannot_hold_are_refused() -> None:
    with pytest.raises(InputError, match="float32"):
        pack(np.array([1e6], np.float32), VectorFormat.FLOAT16)
