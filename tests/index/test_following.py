"""A searcher that lives through many commits finds what one that was opened just now finds."""

from datetime import timedelta

import numpy as np
import pytest

from decant.index import Searcher, Store
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder(16, outputs=("dense", "sparse"), terms=300)
WORDS = [f"word{i}" for i in range(40)]


def document(number, random):
    """One to three lines of few words, so that a document is often changed back to what it was."""
    lines = [" ".join(random.choice(WORDS[:6], 2)) + f" {WORDS[number]}\n" for _ in range(random.integers(1, 4))]
    return indexed(f"d{number}", "".join(lines), ENCODER)


def change(store, random):
    kind = random.choice(["replace"] * 10 + ["delete", "optimize"])
    numbers = sorted({int(i) for i in random.integers(0, 40, 3)})
    if kind == "delete":
        store.delete([f"d{i}" for i in numbers[:1]])
    elif kind == "optimize":
        store.optimize(keep=timedelta(minutes=5))
    else:
        store.replace([document(number, random) for number in numbers])


@pytest.mark.parametrize("sealed", [False, True], ids=["in memory", "sealed"])
def test_commits_are_followed_to_what_would_be_read_anew(tmp_path, sealed):
    random = np.random.default_rng(1)
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([document(number, random) for number in range(40)])
        if sealed:
            store.build_accelerator("hnsw")
            store.seal_sparse("seismic")
        long_lived = Searcher(Store.open(tmp_path / "s", read_only=True), ENCODER)
        kept = {"dense": [], "sparse": []}
        for step in range(24):
            for _ in range(int(random.integers(1, 3))):
                change(store, random)
            new = Searcher(Store.open(tmp_path / "s", read_only=True), ENCODER)
            for mode in ("dense", "sparse") if step % 3 else ("dense",):
                [found], [wanted] = (
                    searcher.search_many([f"word1 {WORDS[step]}"], mode=mode, k=200, exact=True)
                    for searcher in (long_lived, new)
                )
                assert found == wanted, (mode, step)
                kept[mode].append(getattr(long_lived.views, f"_{mode}"))
            if not step % 2:  # what only Lance's own row ids lead to
                for mode in ("lexical", "dense"):
                    found, wanted = (
                        searcher.search(f"word1 {WORDS[step]}", mode=mode, k=200, filter="doc_id LIKE 'd1%'")
                        for searcher in (long_lived, new)
                    )
                    assert found == wanted, (mode, step)
        assert any(b.pool.buffer is a.pool.buffer for a, b in zip(kept["dense"], kept["dense"][1:], strict=False))


def test_a_commit_of_one_document_reads_one_row(tmp_path, monkeypatch):
    """Of ids, keys, vectors and terms; whatever else a search asks for is of its hits."""
    random = np.random.default_rng(1)
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([document(number, random) for number in range(40)])
        searcher = Searcher(store, ENCODER)
        searcher.search("word1", mode="dense+sparse")
        monkeypatch.setattr("decant.index.pinned.PinnedTable.scan", None)
        monkeypatch.setattr("decant.index.pinned.PinnedTable.batches", None)
        for number in (3, 7, 8):
            store.replace([indexed(f"d{number}", f"fresh{number}\n", ENCODER)])
            store._journal.clear()  # see test_journal
            assert searcher.search(f"fresh{number}", mode="dense+sparse")[0].chunk.doc_id == f"d{number}"
