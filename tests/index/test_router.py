"""Mixture-of-experts embeddings: router vectors beside the dense ones, searched by one product."""

import numpy as np
import pytest

from decant.index import Searcher, Store
from decant.index.errors import QueryError
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder(12, name="moe", outputs=("dense", "router"), router=5)
TEXTS = [f"word{i % 7} word{i % 11} word{i % 5}\n" for i in range(300)]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    opened = Store.open(tmp_path_factory.mktemp("router") / "s", encoder=ENCODER, create=True)
    opened.replace([indexed(f"d{i}", text, ENCODER) for i, text in enumerate(TEXTS)])
    return opened


def unit(matrix):
    return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@pytest.mark.parametrize("kind", ["exact", "hnsw"])
@pytest.mark.parametrize("alpha", [1.0, 0.3])
def test_moee_is_the_weighted_sum_of_both_cosines(store, alpha, kind):
    store.build_accelerator(kind)
    searcher = Searcher(store, ENCODER, router_weight=alpha)
    query = "word3 word4 word9"
    documents = ENCODER.encode(TEXTS, outputs=("dense", "router"))
    asked = ENCODER.encode([query], outputs=("dense", "router"))
    dense = (unit(documents.dense) @ unit(asked.dense).T)[:, 0]
    router = (unit(documents.router) @ unit(asked.router).T)[:, 0]
    wanted = {"dense": dense, "router": router, "moee": dense + alpha * router}
    for mode, scores in wanted.items():
        hits = searcher.search(query, mode=mode, k=20)
        assert [h.score for h in hits] == pytest.approx(np.sort(scores)[::-1][:20], abs=1e-5)
        assert [h.score for h in hits] == pytest.approx([scores[int(h.chunk.doc_id[1:])] for h in hits], abs=1e-5)
    assert hits == Searcher(store, ENCODER).search(query, mode="moee", k=20, router_weight=alpha)


@pytest.mark.parametrize("weight", [-0.1, float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(store, weight):
    with pytest.raises(QueryError, match="router_weight is .*: give a number that is not negative"):
        Searcher(store, ENCODER).search("word1", mode="moee", router_weight=weight)
    with pytest.raises(QueryError, match="router_weight"):
        Searcher(store, ENCODER, router_weight=weight)


def test_hybrid_takes_the_sum_as_its_dense_side(store):
    assert set(Searcher(store, ENCODER).search("word1 word2")[0].ranks) == {"moee", "lexical"}
    assert store.info()["modes"] == ["dense", "lexical", "router", "moee", "hybrid"]


def test_the_stored_parts_are_what_the_encoder_made(store):
    row = store.snapshot().scan(["vector", "router"], "doc_id = 'd4'").to_pylist()[0]
    made = ENCODER.encode([TEXTS[4]], outputs=("dense", "router"))
    assert row["vector"] == pytest.approx(made.dense[0])
    assert row["router"] == pytest.approx(made.router[0])


def test_a_callers_dense_vectors_are_completed_by_the_encoder(store):
    searcher, dense = Searcher(store, ENCODER), ENCODER.encode(["word3"]).dense
    assert searcher.search_many(["word3"], mode="moee", vectors=dense) == [searcher.search("word3", mode="moee")]
