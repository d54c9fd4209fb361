"""A graph's search width is what its own vectors ask for, is kept with it, and is searched with."""

import json

import faiss
import numpy as np
import pytest

from decant.index import Searcher, Store, graph_width
from decant.index.testing import HashEncoder, indexed
from decant.index.topk import normalize

ENCODER = HashEncoder(32)


def graph(rows, links):
    index = faiss.IndexHNSWFlat(rows.shape[1], links, faiss.METRIC_INNER_PRODUCT)
    index.add(rows)
    return index


def test_a_graph_that_finds_less_is_searched_more_widely():
    rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    normalize(rows)
    good, poor = (graph_width.measured(graph(rows, links), rows) for links in (32, 3))
    assert good["width"] < poor["width"]
    assert good["width_recall"] >= graph_width.TARGET


def test_recall_is_counted_against_the_exact_ten_best():
    rows = np.random.default_rng(0).standard_normal((3000, 64)).astype(np.float32)
    normalize(rows)

    class Blind:
        def search(self, queries, k, params):
            return None, np.full((len(queries), k), -1)

    assert graph_width.measured(Blind(), rows) == {"width": graph_width.WIDTHS[-1], "width_recall": 0.0}
    assert graph_width.measured(graph(rows[:4], 8), rows[:4])["width_recall"] == 1.0
    assert graph_width.measured(None, rows[:0]) == {}


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([indexed(f"d{i}", f"number{i}\n", ENCODER) for i in range(60)])
        yield store


def test_the_width_is_kept_shown_and_used(store, monkeypatch):
    monkeypatch.setattr(graph_width, "measured", lambda index, vectors: {"width": 96, "width_recall": 0.981})
    store.build_accelerator("hnsw")
    assert "width 96 found 98.1% of a sample" in store.info()["dense"]["reason"]
    sealed = Searcher(store, ENCODER).view(store.snapshot()).sealed
    assert sealed._parameters(10, 1.0, None).efSearch == 96
    assert sealed._parameters(10, 0.5, None).efSearch == 192
    assert sealed._parameters(100, 1.0, None).efSearch == 200


@pytest.mark.parametrize("facts", [{"kind": "magic"}, {"width": "wide"}, {"width": 0}, {"width": None}])
def test_an_edited_manifest_is_not_searched_by(store, facts):
    store.build_accelerator("hnsw")
    path = store.dense_folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["facts"] |= facts
    path.write_text(json.dumps(manifest), encoding="utf-8")
    searcher = Searcher(store, ENCODER)
    assert searcher.search("number7", mode="dense")[0].chunk.doc_id == "d7"
    assert "not used" in searcher.dense_reason
