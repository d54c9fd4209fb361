"""Spread of rows: known spectra give known numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from decant.embedder import Encoder, InputError
from decant.embedder.health import Moments, measure_health, plot_health


def spread_of(rows, parts=1):
    moments = Moments(rows.shape[1])
    for part in torch.as_tensor(rows).chunk(parts):
        moments.add(part)
    return moments.spread()


def with_singular_values(values, rows=200):
    """Centred rows whose singular values are these."""
    rng = np.random.default_rng(0)
    left = rng.normal(size=(rows, len(values)))
    left = np.linalg.qr(left - left.mean(0))[0]
    right = np.linalg.qr(rng.normal(size=(len(values), len(values))))[0]
    return left @ np.diag(values) @ right


@pytest.mark.parametrize("values", [[4.0, 2.0, 1.0, 0.5], [1.0, 1.0, 1.0], [5.0, 0.0, 0.0]])
def test_formulas_on_a_known_spectrum(values):
    s = np.array(values)
    p = s[s > 0] / s.sum()
    found = spread_of(with_singular_values(values) + 7.0, parts=3)
    assert found.anisotropy == pytest.approx(s[0] ** 2 / (s**2).sum())
    assert found.effective_rank == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-3)


def test_mean_cosine_is_of_different_rows():
    rows = np.random.default_rng(0).normal(size=(20, 5)) + 1.0
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    scores = unit @ unit.T
    expected = (scores.sum() - 20) / (20 * 19)
    assert spread_of(rows, parts=4).mean_cosine == pytest.approx(expected)


def test_rows_that_are_all_alike_have_one_direction():
    found = spread_of(np.ones((6, 4)))
    assert (found.anisotropy, found.effective_rank) == (1.0, 1.0)
    assert found.mean_cosine == pytest.approx(1.0)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(InputError, match="one row"):
        spread_of(np.ones((1, 4)))
    with pytest.raises(InputError, match="NaN"):
        spread_of(np.array([[1.0, np.nan], [0.0, 1.0]]))


def test_every_layer_and_the_vectors(tiny_model, tmp_path):
    encoder = Encoder.load(tiny_model, dtype="float32", verify=False)
    texts = ["rivers carry water to the sea", "the committee met", "def add(a, b): return a", "one more", "and more"]
    health = measure_health(encoder, texts, batch_tokens=8)
    tokens = sum(len(ids) for ids in encoder.tokenize(texts).ids)
    assert [one.rows for one in health.layers] == [tokens] * (encoder.backbone.config.num_hidden_layers + 1)
    assert all(1 <= one.effective_rank <= one.width for one in health.layers)
    assert health.vectors is not None and health.vectors.rows == len(texts)
    plot_health(health, tmp_path / "health.png")
    assert (tmp_path / "health.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(InputError, match="cannot draw"):
        plot_health(health, tmp_path / "gone" / "health.png")
