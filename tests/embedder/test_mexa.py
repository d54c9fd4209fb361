"""MEXA: identity gives 1, chance gives 1 / (2n - 1), ties count against a pair."""

from __future__ import annotations

import numpy as np
import pytest

from decant.embedder import Encoder, InputError
from decant.embedder.mexa import SentenceVector, aligned_share, mexa


def by_definition(first, second):
    """Share of pairs that win row and column, one by one."""
    count = 0
    for i in range(len(first)):
        cosine = lambda a, b: float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))  # noqa: E731
        own = cosine(first[i], second[i])
        others = [cosine(first[i], second[j]) for j in range(len(first)) if j != i]
        others += [cosine(first[j], second[i]) for j in range(len(first)) if j != i]
        count += own > max(others)
    return count / len(first)


def test_identity_is_one_and_opposite_is_zero():
    vectors = np.random.default_rng(0).normal(size=(40, 8))
    assert aligned_share(vectors, 3 * vectors) == 1.0
    assert aligned_share(vectors, -vectors) == 0.0


def test_chance_is_one_in_2n_minus_1():
    rng = np.random.default_rng(0)
    n = 10
    found = np.mean([aligned_share(rng.normal(size=(n, 64)), rng.normal(size=(n, 64))) for _ in range(600)])
    assert found == pytest.approx(1 / (2 * n - 1), abs=0.012)


@pytest.mark.parametrize("noise", [0.5, 1.0, 2.0])
def test_agrees_with_the_definition(noise):
    rng = np.random.default_rng(1)
    first = rng.normal(size=(30, 6))
    second = first + noise * rng.normal(size=first.shape)
    assert aligned_share(first, second) == pytest.approx(by_definition(first, second))


def test_a_tie_is_not_aligned():
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    assert aligned_share(vectors, vectors) == pytest.approx(1 / 3)


def test_one_pair_is_refused():
    with pytest.raises(InputError, match="two or more"):
        aligned_share(np.ones((1, 3)), np.ones((1, 3)))


@pytest.mark.parametrize("sentence", SentenceVector)
def test_a_model_aligns_texts_with_themselves(tiny_model, sentence):
    encoder = Encoder.load(tiny_model, dtype="float32", verify=False)
    texts = ["rivers carry water", "the committee met", "def add(a, b)", "budget for three hours", "x y"]
    found = mexa(encoder, texts, texts, sentence=sentence, batch_tokens=8)
    assert found.pairs == 5 and found.chance == 1 / 9
    assert found.layers[-1] == found.best == found.vectors == 1.0
    assert len(found.layers) == encoder.backbone.config.num_hidden_layers + 1


def test_sides_of_different_length_are_refused(tiny_model):
    encoder = Encoder.load(tiny_model, dtype="float32", verify=False)
    with pytest.raises(InputError, match="not 2 and 1"):
        mexa(encoder, ["a", "b"], ["a"])
