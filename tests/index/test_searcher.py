"""Searching: modes, ties, limits, and what a reader sees while a writer works."""

import threading

import numpy as np
import pytest

from decant.index import Searcher, Store
from decant.index.errors import QueryError, StoreDamaged, StoreMismatch
from decant.index.fusion import Fusion
from decant.index.schema import TABLE
from decant.index.searcher import FUSION_DEPTH, MAX_RESULTS
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder(64)
TEXTS = {
    "paris": "the capital of france is paris\nparis lies on the seine\n",
    "berlin": "the capital of germany is berlin\nberlin lies on the spree\n",
    "cats": "cats chase mice\nmice eat cheese\n",
}
MODES = ("dense", "lexical", "hybrid")


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as opened:
        yield opened


@pytest.fixture
def searcher(store):
    store.replace(
        [indexed(name, text, ENCODER, title=name.upper(), path=f"{name}.txt") for name, text in TEXTS.items()]
    )
    return Searcher(store, ENCODER)


@pytest.mark.parametrize("mode", MODES)
def test_the_best_hit_comes_first_with_all_that_a_person_needs(store, searcher, mode):
    hits = searcher.search("capital of france", mode=mode, k=4)
    best = hits[0]
    assert (best.chunk.doc_id, best.chunk.ordinal, best.title, best.path) == ("paris", 0, "PARIS", "paris.txt")
    assert store.text("paris")[best.chunk.start_char : best.chunk.end_char] == best.chunk.text
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert set(best.ranks) == ({"dense", "lexical"} if mode == "hybrid" else {mode})
    assert best.ranks[next(iter(best.ranks))] == 1


def test_words_are_searched_without_the_model_and_meaning_is_not(store, searcher):
    alone = Searcher(store, None)
    assert alone.search("chased mice", mode="lexical") == searcher.search("chased mice", mode="lexical")
    vectors = ENCODER.encode(["cats"], kind="query").dense
    assert alone.search_vectors(vectors) == searcher.search_vectors(vectors)
    with pytest.raises(QueryError, match="needs the model that made the store"):
        alone.search("chased mice", mode="hybrid")


def test_dense_scores_are_cosines_whatever_the_vectors_lengths(store):
    long = indexed("a", "one two\nthree\n", ENCODER)
    store.replace([type(long)(long.document, long.content_hash, long.chunks, long.vectors * np.float32(7))])
    hits = Searcher(store, ENCODER).search_vectors(ENCODER.encode(["one two"]).dense * 3, k=2)[0]
    assert hits[0].score == pytest.approx(1.0, abs=1e-6)
    assert hits[1].score == pytest.approx(float(long.vectors[0] @ long.vectors[1]), abs=1e-6)


def test_hybrid_scores_are_reciprocal_ranks(searcher):
    for hit in searcher.search("mice eat cheese on the seine", k=6, fusion=Fusion("rrf")):
        assert hit.score == pytest.approx(sum(1 / (60 + rank) for rank in hit.ranks.values()))


@pytest.mark.parametrize("mode", MODES)
def test_many_queries_at_once_give_what_each_gives_alone(searcher, mode):
    queries = ["capital of france", "mice", "berlin spree", "capital"]
    assert searcher.search_many(queries, mode=mode, k=3) == [searcher.search(q, mode=mode, k=3) for q in queries]


@pytest.mark.parametrize("mode", MODES)
def test_equal_scores_come_in_the_order_of_chunk_ids(store, mode):
    names = [f"d{i}" for i in range(60)]
    store.replace([indexed(name, "the very same words\n", ENCODER) for name in names[:30]])
    store.replace([indexed(name, "the very same words\n", ENCODER) for name in names[30:]])
    searcher = Searcher(store, ENCODER)
    wide = [hit.chunk.doc_id for hit in searcher.search("same words", mode=mode, k=60)]
    narrow = [hit.chunk.doc_id for hit in searcher.search("same words", mode=mode, k=5)]
    ids = {name: chunk for name, chunk in zip(*_ids(store), strict=True)}
    assert wide == sorted(names, key=ids.get)
    assert narrow == wide[:5]


def _ids(store):
    snapshot = store.snapshot()
    return snapshot.scan(["doc_id"])["doc_id"].to_pylist(), snapshot.chunk_ids.tolist()


@pytest.mark.parametrize("mode", MODES)
def test_a_commit_is_seen_by_the_next_search(store, searcher, mode):
    with Store.open(store.root, encoder=ENCODER, read_only=True) as other:
        reader = Searcher(other, ENCODER)
        assert reader.search("zebra", mode="lexical") == []
        with store.writer():
            store.replace([indexed("z", "a zebra\n", ENCODER)])
            # Inside the writer nothing has brought the text index up to date yet.
            assert reader.search("a zebra", mode=mode)[0].chunk.doc_id == "z"
            store.replace([indexed("z", "a giraffe\n", ENCODER)])
            assert reader.search("a giraffe", mode=mode)[0].chunk.text == "a giraffe\n"
            store.delete(["z"])
            assert "z" not in {hit.chunk.doc_id for hit in reader.search("a giraffe", mode=mode)}


@pytest.mark.parametrize("mode", MODES)
def test_an_empty_store_finds_nothing(store, mode):
    assert Searcher(store, ENCODER).search("anything", mode=mode) == []


@pytest.mark.parametrize("mode", MODES)
def test_more_results_than_chunks_gives_all_that_match(searcher, mode):
    hits = searcher.search("the capital lies, mice", mode=mode, k=MAX_RESULTS)
    assert len({(hit.chunk.doc_id, hit.chunk.ordinal) for hit in hits}) == len(hits)
    assert len(hits) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"query": ""}, "query is empty"),
        ({"query": " \n\t"}, "query is empty"),
        ({"query": "x", "k": 0}, "k is 0"),
        ({"query": "x", "k": -3}, "k is -3"),
        ({"query": "x", "k": MAX_RESULTS + 1}, "10,000"),
        ({"query": "x", "mode": "sprase"}, "choose from dense, lexical, hybrid"),
    ],
)
def test_what_cannot_be_searched_is_refused(searcher, arguments, message):
    with pytest.raises(QueryError, match=message):
        searcher.search(**arguments)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((1, 3), np.float32), "64 dimensions"),
        (np.zeros(64, np.float32), "64 dimensions"),
        (np.full((1, 64), np.nan, np.float32), "NaN"),
        (np.full((1, 64), np.inf, np.float32), "NaN or infinity"),
    ],
)
def test_query_vectors_that_do_not_fit_are_refused(searcher, vectors, message):
    with pytest.raises(QueryError, match=message):
        searcher.search_vectors(vectors)


def test_vectors_that_the_caller_has_made_are_used(searcher):
    queries = ["capital of france", "mice"]
    made = ENCODER.encode(queries).dense
    for mode in MODES:
        assert searcher.search_many(queries, mode=mode, vectors=made) == searcher.search_many(queries, mode=mode)
    swapped = searcher.search_many(queries, mode="dense", vectors=made[::-1])
    assert swapped == searcher.search_many(queries[::-1], mode="dense")
    with pytest.raises(QueryError, match="one each"):
        searcher.search_many(queries, vectors=made[:1])


def test_no_queries_give_no_results(searcher):
    assert searcher.search_many([]) == []
    assert searcher.search_vectors(np.zeros((0, 64), np.float32)) == []


def test_a_zero_query_vector_ranks_by_chunk_id_alone(searcher):
    assert {hit.score for hit in searcher.search_vectors(np.zeros((1, 64), np.float32))[0]} == {0.0}


def test_odd_queries_are_plain_words(searcher):
    for query in ('"', "a AND (", "paris:^2 *", "?!", "\x00", "e" * 5000, "🙂", "-- ;"):
        for mode in MODES:
            searcher.search(query, mode=mode)
    assert searcher.search("PARIS!", mode="lexical")[0].chunk.doc_id == "paris"
    assert searcher.search("chased mouse cat", mode="lexical")[0].chunk.doc_id == "cats"  # stems


def test_another_encoder_is_refused(store):
    with pytest.raises(StoreMismatch):
        Searcher(store, HashEncoder(64, name="other"))


def test_fusion_looks_deeper_than_the_results_asked_for(store):
    store.replace([indexed(f"d{i}", f"filler number {i}\n", ENCODER) for i in range(FUSION_DEPTH + 20)])
    hits = Searcher(store, ENCODER).search("filler number 3", k=1)
    assert hits == Searcher(store, ENCODER).search("filler number 3", k=50)[:1]


class Gone:
    """A snapshot none of whose files are left; a real one may still be answered out of Lance's caches."""

    def __init__(self, version):
        self.version = version

    def __getattr__(self, name):
        raise StoreDamaged(name)

    def __len__(self):
        raise StoreDamaged("rows")


def test_a_version_whose_files_are_gone_is_searched_again_on_the_newest(store, searcher, monkeypatch):
    stale = store.snapshot()
    with Store.open(store.root, encoder=ENCODER) as other:
        other.replace([indexed("z", "a zebra\n", ENCODER)])
    fresh = type(store).snapshot
    calls = iter([lambda: Gone(stale.version), lambda: fresh(store), lambda: fresh(store)])
    monkeypatch.setattr(store, "snapshot", lambda: next(calls)())
    assert searcher.search("a zebra", mode="hybrid")[0].chunk.doc_id == "z"


def test_a_version_that_vanishes_before_it_is_read_is_passed_over(store, monkeypatch):
    old = store.snapshot().version
    with Store.open(store.root, encoder=ENCODER) as other, Store.open(store.root) as reader:
        other.replace([indexed("z", "a zebra\n", ENCODER)])
        answers = iter([Gone(old), reader._follower.tables.newest(TABLE)])
        monkeypatch.setattr(reader._follower.tables, "newest", lambda name: next(answers))
        assert reader.text("z") == "a zebra\n"


def test_readers_see_whole_documents_while_a_writer_works(store, searcher):
    """Every document holds its round twice; a search must never see two rounds or half of one."""
    failures = []
    done = threading.Event()

    def read():
        with Store.open(store.root, encoder=ENCODER, read_only=True) as mine:
            reader = Searcher(mine, ENCODER)
            while not done.is_set():
                try:
                    hits = reader.search("round marker", mode="hybrid", k=8, filter="doc_id LIKE 'r%'")
                    seen = {}
                    for hit in hits:
                        seen.setdefault(hit.chunk.doc_id, []).append(hit.chunk.text.split()[-1])
                    if any(len(rounds) != 2 or len(set(rounds)) != 1 for rounds in seen.values()) or len(seen) != 4:
                        failures.append(seen)
                except Exception as error:
                    failures.append(error)

    def batch(number):
        text = f"round marker a {number}\nround marker b {number}\n"
        return [indexed(f"r{i}", text, ENCODER) for i in range(4)]

    store.replace(batch(0))
    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(1, 17):
            store.replace(batch(number))
            if number % 8 == 0:
                store.optimize()
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert failures == []
