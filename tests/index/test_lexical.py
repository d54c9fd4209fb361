"""The full-text side: nothing unindexed is missed, and history leaves no trace in the scores."""

import random

import numpy as np
import pytest

from decant.index import Searcher, Store, upkeep
from decant.index.lexical import content_words, search_text
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()
WORDS = [f"word{i}" for i in range(60)]


def texts(n):
    rng = random.Random(3)
    return {
        f"d{i}": " ".join(rng.choices(WORDS, weights=range(60, 0, -1), k=rng.randint(3, 40))) + "\n" for i in range(n)
    }


def entries(found):
    return [indexed(name, text, ENCODER) for name, text in found.items()]


def results(store):
    searcher = Searcher(store, ENCODER)
    return [
        [(hit.chunk.doc_id, pytest.approx(hit.score, rel=1e-5)) for hit in searcher.search(query, mode="lexical", k=20)]
        for query in ("word3 word40", "word1", "word59 word58 word0")
    ]


def test_many_writes_score_as_one_write(tmp_path):
    wanted = texts(150)
    with Store.open(tmp_path / "bulk", encoder=ENCODER, create=True) as bulk:
        bulk.replace(entries(wanted))
        expected = results(bulk)
    with Store.open(tmp_path / "steps", encoder=ENCODER, create=True) as steps:
        steps.replace(entries({name: "word1 word3 something else\n" for name in list(wanted)[:70]}))
        steps.replace(entries({f"gone{i}": "word3 word3 word40\n" for i in range(40)}))
        for start in range(0, 150, 30):
            steps.replace(entries(dict(list(wanted.items())[start : start + 30])))
        steps.delete([f"gone{i}" for i in range(40)])
        steps.optimize()
        assert results(steps) == expected


def test_a_small_tail_waits_to_be_indexed_but_is_found(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace(entries(texts(upkeep.UNINDEXED_ROWS)))  # enough to be indexed at once
        assert store.info()["lexical"]["not_yet_indexed"] == 0
        store.replace([indexed("late", "word3 latecomer\n", ENCODER)])
        assert store.info()["lexical"]["not_yet_indexed"] == 1
        searcher = Searcher(store, ENCODER)
        assert [hit.chunk.doc_id for hit in searcher.search("latecomer", mode="lexical")] == ["late"]
        assert "late" in {hit.chunk.doc_id for hit in searcher.search("word3", mode="lexical", k=100)}
        store.optimize()
        assert store.info()["lexical"]["not_yet_indexed"] == 0


def test_many_files_are_a_reason_to_compact(tmp_path, monkeypatch):
    monkeypatch.setattr(upkeep, "SMALL_FRAGMENTS", 6)
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        waiting = []
        for number in range(12):
            store.replace([indexed(f"d{number}", "word3 again\n", ENCODER)])
            waiting.append(store.info()["lexical"]["not_yet_indexed"])
        assert max(waiting) == 5 and waiting.count(0) == 2


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("What is the capital of France?", "capital France?"),
        ("while loop", "while loop"),
        ("To be, or not to be", "To be, or not to be"),
        ("The Who", "The Who"),
        ("who leads the WHO", "leads WHO"),
        ("WHO IS ALICE", "ALICE"),
        ("?!", "?!"),
        ("naïve Ångström the", "naïve Ångström"),
    ],
)
def test_what_is_asked_does_not_count_like_what_is_asked_about(query, kept):
    assert content_words(query).split() == kept.split()


def test_a_query_of_function_words_alone_still_finds_them(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([indexed("hamlet", "to be or not to be\n", ENCODER), indexed("x", "other words\n", ENCODER)])
        found = Searcher(store, ENCODER).search("To be, or not to be", mode="lexical")
        assert [hit.chunk.doc_id for hit in found] == ["hamlet"]


@pytest.mark.parametrize("k", [1, 7, 39, 40, 41])
def test_a_tie_that_spans_the_limit_is_cut_by_chunk_id(tmp_path, k):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([indexed(f"d{i}", "the same words here\n", ENCODER) for i in range(40)])
        store.replace([indexed("best", "same\n", ENCODER)])
        snapshot = store.snapshot()
        found = search_text(snapshot, "same", k, None)
        ids = snapshot.chunk_ids[found.positions]
        tied = np.sort(snapshot.chunk_ids[snapshot.mask("doc_id != 'best'")])
        np.testing.assert_array_equal(ids[1:], tied[: k - 1])
        assert len(found) == min(k, 41)
