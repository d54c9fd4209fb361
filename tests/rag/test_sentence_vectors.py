"""Sentences are encoded once for a tenant, within a budget."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from decant.index.testing import HashEncoder
from decant.rag import Answerer
from decant.rag.sentence_vectors import SentenceVectors, unit


class Counting(HashEncoder):
    """Counts the documents that it encodes."""

    def __init__(self, dimension: int = 16) -> None:
        super().__init__(dimension=dimension)
        self.texts: list[str] = []

    def encode(self, texts, *, kind="document", outputs=("dense",)):
        if kind == "document":
            self.texts.extend(texts)
        return super().encode(texts, kind=kind, outputs=outputs)


def test_a_row_is_the_sentence_s_own_vector():
    encoder = Counting()
    vectors = SentenceVectors(encoder)
    asked = ["Iron rusts.", "Copper turns green.", "Iron rusts."]
    for _ in range(2):
        found = vectors.get(asked)
        wanted = HashEncoder(dimension=16).encode(asked).dense
        np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=1, keepdims=True), atol=1e-6)
    assert encoder.texts == asked[:2]
    vectors.get(["Tin is soft.", "Iron rusts."])
    assert encoder.texts == [*asked[:2], "Tin is soft."]


def test_a_tenant_pays_for_its_own_sentences():
    encoder = Counting()
    vectors = SentenceVectors(encoder)
    for tenant in ("a", "b", "", "a"):
        vectors.get(["Iron rusts."], tenant)
    assert encoder.texts == ["Iron rusts."] * 3


def test_the_least_recently_used_go_first():
    encoder = Counting()
    one = 16 * 4 + 4 * len("s0") + 300
    vectors = SentenceVectors(encoder, budget_bytes=2 * one)
    vectors.get(["s0"])
    vectors.get(["s1"])
    vectors.get(["s0"])
    vectors.get(["s2"])
    assert encoder.texts == ["s0", "s1", "s2"]
    vectors.get(["s0", "s2"])
    assert encoder.texts == ["s0", "s1", "s2"]
    vectors.get(["s1"])
    assert encoder.texts[-1] == "s1"


@pytest.mark.parametrize("budget", [0, 1000])
def test_more_than_the_budget_is_answered_all_the_same(budget):
    vectors = SentenceVectors(Counting(), budget_bytes=budget)
    texts = [f"Sentence {i}." for i in range(50)]
    assert vectors.get(texts).shape == (50, 16)


def test_threads_share_it():
    encoder = Counting()
    vectors = SentenceVectors(encoder, budget_bytes=8_000)
    texts = [[f"Sentence {(i * 7 + j) % 40}." for j in range(10)] for i in range(200)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(vectors.get, texts))
    for part, rows in zip(texts, found, strict=True):
        wanted = HashEncoder(dimension=16).encode(part).dense
        np.testing.assert_allclose(rows, unit(wanted), atol=1e-6)


def test_asked_again_nothing_is_encoded_but_the_question(store, rules, monkeypatch):
    encoder = Counting(128)
    answerer = Answerer(store, encoder, rules)
    first = answerer.ask("Which metal turns green over the years?", tenant="a")
    told = len(encoder.texts)
    assert answerer.ask("Which metal turns green over the years?", tenant="a") == first
    assert len(encoder.texts) == told > 0
    assert answerer.ask("Which metal turns green over the years?", tenant="b") == first
    assert len(encoder.texts) > told
