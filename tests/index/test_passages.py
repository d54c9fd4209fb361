"""What is shown of a hit: from beside the accelerator or from the table, always what the newest commit says."""

import numpy as np
import pytest

from decant.index import Searcher, Store, passages
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder(16, outputs=("dense", "sparse"))


def document(number, title="a title", **metadata):
    text = f"passage {number} about number{number} – “quoted”\nand a second line {number}\n"
    return indexed(
        f"d{number}", text, ENCODER, title=title, path=f"docs/{number}.md", metadata={"n": number, **metadata}
    )


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([document(number) for number in range(40)])
        yield store


@pytest.fixture
def read(monkeypatch):
    """How many rows were read from beside the accelerator."""
    counted = []
    take = passages.Passages.take
    monkeypatch.setattr(passages.Passages, "take", lambda self, slots: counted.extend(slots) or take(self, slots))
    return counted


@pytest.mark.parametrize("mode", ["dense", "sparse", "lexical", "hybrid"])
def test_hits_are_the_same_from_beside_the_accelerator(store, read, mode):
    searcher = Searcher(store, ENCODER)
    without = searcher.search("passage about number7", mode=mode, k=7)
    assert not read
    store.build_accelerator("hnsw")
    searcher.search("x", mode="dense", k=1)
    read.clear()
    assert searcher.search("passage about number7", mode=mode, k=7) == without
    assert len(read) == 7


def test_a_row_that_changed_in_what_is_shown_alone_is_read_from_the_table(store, read):
    store.build_accelerator("hnsw")
    searcher = Searcher(store, ENCODER)
    searcher.search("number3", mode="dense", k=1)
    store.replace([document(3, title="another title"), document(4, seen=True)])
    hits = searcher.search("passage about number3", mode="dense", k=80)
    shown = {hit.chunk.doc_id: (hit.title, hit.metadata) for hit in hits}
    assert shown["d3"] == ("another title", {"n": 3})
    assert shown["d4"] == ("a title", {"n": 4, "seen": True})
    assert shown["d5"] == ("a title", {"n": 5})
    assert store.info()["dense"]["exact_tail"] == 4
    store.delete(["d5"])
    assert "d5" not in {hit.chunk.doc_id for hit in searcher.search("number5", mode="dense", k=80)}


def test_without_its_passages_an_accelerator_still_serves(store):
    """As one that was built before they were kept."""
    store.build_accelerator("hnsw")
    searcher = Searcher(store, ENCODER)
    view = searcher.view(store.snapshot())
    object.__setattr__(view.sealed, "passages", None)
    places = np.array([5, 2, 9])
    assert [row["doc_id"] for row in searcher.views.shown(store.snapshot(), places)] == store.snapshot().take(
        places, ["doc_id"]
    )["doc_id"].to_pylist()
