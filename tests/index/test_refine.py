"""What happens to hits after a search: reranking, spreading, grouping."""

import numpy as np
import pytest

from decant.index import Searcher, Store
from decant.index.errors import QueryError
from decant.index.refine import Refine
from decant.index.rerank import CrossEncoderReranker, LateInteraction, late_interaction
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder(32)
TEXTS = {
    "long": "red fox one\nred fox two\nred fox three\nred fox four\nred fox five\n",
    "short": "red fox six\n",
    "other": "a red house\n",
    "last": "grey wolves\n",
}


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("refine") / "s", encoder=ENCODER, create=True)
    store.replace([indexed(name, text, ENCODER) for name, text in TEXTS.items()])
    return Searcher(store, ENCODER)


class ByLength:
    def scores(self, query, hits):
        return np.array([-len(hit.chunk.text) for hit in hits], np.float32)


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_grouping_looks_deeper_where_one_document_fills_the_list(searcher, mode):
    plain = searcher.search("red fox", mode=mode, k=3)
    assert [hit.chunk.doc_id for hit in plain].count("long") >= 2
    hits = searcher.search("red fox", mode=mode, k=3, refine=Refine(per_document=1))
    assert sorted(hit.chunk.doc_id for hit in hits) == ["long", "other", "short"]
    assert hits[0].score == max(hit.score for hit in plain)


def test_a_reranker_decides_the_order_and_the_scores(searcher):
    hits = searcher.search("red fox", mode="dense", k=3, refine=Refine(reranker=ByLength()))
    every = sorted(len(line) for text in TEXTS.values() for line in text.splitlines(keepends=True))
    assert [-hit.score for hit in hits] == every[:3]
    with pytest.raises(QueryError, match="finite"):

        class Broken:
            def scores(self, query, hits):
                return np.full(len(hits), np.nan, np.float32)

        searcher.search("red", refine=Refine(reranker=Broken()))


def test_diversity_brings_in_what_differs(searcher):
    alike = searcher.search("red fox one", mode="dense", k=3, refine=Refine(diversity=0.0))
    assert alike == searcher.search("red fox one", mode="dense", k=3)
    varied = searcher.search("red fox one", mode="dense", k=3, refine=Refine(diversity=0.7))
    assert varied[0] == alike[0]
    assert {hit.chunk.doc_id for hit in varied} > {"long"}
    assert mean_cosine(varied) < mean_cosine(alike)


def mean_cosine(hits):
    rows = ENCODER.encode([hit.chunk.text for hit in hits]).dense
    return (rows @ rows.T)[np.triu_indices(len(hits), 1)].mean()


@pytest.mark.parametrize("arguments", [{"per_document": 0}, {"diversity": 1.1}, {"diversity": -0.1}, {"depth": 0}])
def test_what_makes_no_sense_is_refused(arguments):
    with pytest.raises(QueryError):
        Refine(**arguments)


def test_late_interaction_is_the_mean_of_the_best_cosines():
    query, passage = np.array([[2.0, 0], [0, 1]], np.float32), np.array([[1, 1], [0, 5.0]], np.float32)
    assert late_interaction(query, passage) == pytest.approx((np.sqrt(0.5) + 1) / 2)
    assert late_interaction(query[:0], passage) == 0.0


def test_late_interaction_reranks_by_an_encoders_token_vectors(searcher):
    class Words:
        def token_vectors(self, texts, *, kind="document"):
            return [ENCODER.encode(text.split()).dense for text in texts]

    hits = searcher.search("house red", mode="dense", k=2, refine=Refine(reranker=LateInteraction(Words())))
    assert hits[0].chunk.doc_id == "other" and hits[0].score == pytest.approx(1.0, abs=1e-5)


def test_a_folder_without_a_cross_encoder_is_refused(tmp_path):
    from decant.embedder.errors import ModelError

    with pytest.raises(ModelError, match=r"config\.json is missing"):
        CrossEncoderReranker(tmp_path)
