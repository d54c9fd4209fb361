"""Sparse search: exact postings, sealed segments, tombstones, merges, and mixtures with the other modes."""

import itertools
import json

import numpy as np
import pytest
from scipy.sparse import csr_array, random_array, vstack

from decant.embedder.embeddings import Embeddings
from decant.index import Searcher, Store, seismic
from decant.index.errors import BatchError, QueryError
from decant.index.postings import Postings, appended
from decant.index.recall import measure_recall
from decant.index.schema import IndexedDocument
from decant.index.testing import HashEncoder, indexed

TERMS = 3000
ENCODER = HashEncoder(8, name="sparse", outputs=("dense", "sparse"), terms=TERMS)
WIDE = HashEncoder(8, name="wide", outputs=("dense", "sparse"), terms=70_000)


def rows(count, seed, width=TERMS):
    """Rows of 20 terms, half of them from the row's own one of 12 topics."""
    rng = np.random.default_rng(seed)
    topics = rng.integers(0, 12, count)
    common, own = rng.integers(0, width, (count, 10)), topics[:, None] * 200 + rng.integers(0, 200, (count, 10))
    indices = np.hstack([common, own]).ravel()
    weights = rng.gamma(2.0, 0.5, indices.size).astype(np.float32)
    made = csr_array((weights, indices, np.arange(0, indices.size + 1, 20)), shape=(count, width))
    made.sum_duplicates()
    return made


def documents(first, count, seed, encoder=ENCODER):
    """Documents of one chunk with sparse rows of `rows`, and those rows as they are stored."""
    sparse = rows(count, seed, encoder._terms)
    plain = [indexed(f"d{first + i}", f"text {first + i}\n", encoder, metadata={"n": first + i}) for i in range(count)]
    return [
        IndexedDocument(p.document, p.content_hash, p.chunks, p.vectors, csr_array(sparse[[i]]))
        for i, p in enumerate(plain)
    ], halved(sparse)


def halved(sparse):
    return csr_array((sparse.data.astype(np.float16).astype(np.float32), sparse.indices, sparse.indptr), sparse.shape)


def one(name, weights):
    """A document of one chunk with these weights by term."""
    plain = indexed(name, "text\n", ENCODER)
    terms = np.array([*weights], np.int32)
    sparse = csr_array((np.array([*weights.values()], np.float32), terms, [0, len(terms)]), shape=(1, TERMS))
    return IndexedDocument(plain.document, "h", plain.chunks, plain.vectors, sparse)


def found(searcher, queries, k=10, **options):
    blank = np.zeros(queries.shape[0], np.int32)
    given = Embeddings(blank, blank > 0, None, queries)
    return searcher.search_many(["q"] * queries.shape[0], mode="sparse", k=k, vectors=given, **options)


def truth(matrix, names, queries, k):
    scores = (queries @ matrix.T).toarray()
    return [[names[i] for i in np.argsort(-row, kind="stable")[:k] if row[i] > 0] for row in scores]


def ids(results):
    return [[hit.chunk.doc_id for hit in hits] for hits in results]


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    store = Store.open(tmp_path_factory.mktemp("sparse") / "s", encoder=ENCODER, create=True)
    batch, matrix = documents(0, 3000, 1)
    with store.writer():
        store.replace(batch)
    return store, matrix


def test_the_store_remembers_that_it_holds_sparse_vectors_and_gives_them_back_to_float16s_precision(filled):
    store, matrix = filled
    assert (store.meta.terms, store.meta.layout.outputs) == (TERMS, ("dense", "sparse"))
    snapshot = store.snapshot()
    order = [int(name[1:]) for name in snapshot.take(np.arange(3000), ["doc_id"])["doc_id"].to_pylist()]
    for some in (np.arange(3000), np.array([7, 2999, 7])):
        assert abs(snapshot.sparse(some) - matrix[[order[i] for i in some]]).max() == 0


def test_weights_too_small_for_float16_are_dropped_wherever_rows_are_searched(tmp_path):
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    store.replace([one("a", {3: 1e-8, 5: 6e-8}), one("b", {3: 1e-8}), one("c", {3: 65_504, 7: 1})])
    assert np.sort(store.snapshot().sparse(np.arange(3)).data).tolist() == [2.0**-24, 1, 65_504]
    query = one("q", {3: 1, 5: 1}).sparse
    for kind in ("exact", "seismic"):
        store.seal_sparse(kind)
        assert ids(found(Searcher(store, ENCODER), query)) == [["c", "a"]]


def test_exact_scores_are_inner_products(filled):
    store, matrix = filled
    queries = rows(20, 2)
    results = found(Searcher(store, ENCODER), queries)
    scores = (queries.astype(np.float64) @ matrix.astype(np.float64).T).toarray().astype(np.float32)
    for row, hits in enumerate(results):
        assert [hit.score for hit in hits] == [scores[row, int(h.chunk.doc_id[1:])] for h in hits]
        assert [hit.score for hit in hits] == np.sort(scores[row])[:-11:-1].tolist()
        assert hits[0].ranks == {"sparse": 1}


@pytest.mark.parametrize(("encoder", "count"), [(ENCODER, 4000), (WIDE, 500)], ids=["16 bit terms", "wide terms"])
def test_sealed_segments_find_what_exact_search_finds_through_changes_and_merges(tmp_path, encoder, count):
    store = Store.open(tmp_path / "s", encoder=encoder, create=True)
    width = encoder._terms
    batch, matrix = documents(0, count, 1, encoder)
    store.replace(batch)
    assert store.seal_sparse("seismic").startswith("seismic: 1 segments")
    searcher, queries = Searcher(store, encoder), rows(40, 2, width)
    names = [f"d{i}" for i in range(count)]
    assert overlap(ids(found(searcher, queries)), truth(matrix, names, queries, 10)) >= 0.97
    assert ids(found(searcher, queries, exact=True)) == truth(matrix, names, queries, 10)
    # 60 new rows are an exact tail, 60 old ones tombstones; then the tail is sealed, then all is merged.
    fresh, more = documents(count, 60, 3, encoder)
    store.replace(fresh)
    store.delete(names[:60])
    left = names[60:] + [f"d{i}" for i in range(count, count + 60)]
    now = csr_array(vstack([matrix[60:], more]))
    for kind in (None, "seismic"):
        if kind:
            store.seal_sparse(kind)
        assert ids(found(searcher, queries, exact=True)) == truth(now, left, queries, 10)
        fast = ids(found(searcher, queries))
        assert overlap(fast, truth(now, left, queries, 10)) >= 0.97
        assert not {name for hits in fast for name in hits} & set(names[:60])
    assert store.info()["sparse"]["tombstones"] == 0


def overlap(mine, wanted):
    return np.mean([len(set(a) & set(b)) / max(len(b), 1) for a, b in zip(mine, wanted, strict=True)])


def test_a_tail_is_sealed_as_a_segment_of_its_own_and_many_are_merged(tmp_path, monkeypatch):
    monkeypatch.setattr("decant.index.segments.SEAL_FROM", 100)
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    said = []
    for part, (first, count) in enumerate([(0, 400), (400, 20), (420, 90), (510, 90), (600, 90), (690, 200)]):
        store.replace(documents(first, count, part)[0])
        said.append(store.seal_sparse())
        hits = found(Searcher(store, ENCODER), rows(5, 9), k=1000, exact=True)
        assert all(len({h.chunk.doc_id for h in one}) == len(one) for one in hits)
    assert [line.split(" over")[0].split(" cover")[0] for line in said] == [
        "seismic: 1 segments",
        "seismic: kept, 1 segments",
        "seismic: 2 segments",
        "seismic: 3 segments",
        "seismic: 4 segments",
        "seismic: 1 segments",
    ]


def test_a_segments_scores_are_the_stored_rows_own_and_none_is_computed_twice(filled, monkeypatch):
    store, _ = filled
    store.seal_sparse("seismic")
    try:
        searcher, queries = Searcher(store, ENCODER), rows(40, 5)
        exact = found(searcher, queries, exact=True)
        monkeypatch.delattr(seismic, "exact_scores")
        for fast, right in zip(found(searcher, queries), exact, strict=True):
            known = {hit.chunk.doc_id: hit.score for hit in right}
            shared = [hit for hit in fast if hit.chunk.doc_id in known]
            assert [hit.score for hit in shared] == pytest.approx([known[h.chunk.doc_id] for h in shared], rel=1e-6)
    finally:
        store.seal_sparse("exact")


@pytest.mark.parametrize("older", ["rows", "segments"])
def test_what_an_older_version_stored_or_sealed_is_scored_again(tmp_path, monkeypatch, older):
    if older == "rows":
        monkeypatch.setattr("decant.index.schema._halve", lambda *_: None)
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    store.replace(documents(0, 2500, 1)[0])
    store.seal_sparse("seismic")
    manifest = store.sparse_folder / "manifest.json"
    facts = json.loads(manifest.read_text())
    assert facts["facts"]["halves"] == ([] if older == "rows" else [0])
    del facts["facts"]["halves"]
    manifest.write_text(json.dumps(facts))
    searcher, queries = Searcher(store, ENCODER), rows(20, 2)
    for fast, right in zip(found(searcher, queries), found(searcher, queries, exact=True), strict=True):
        known = {hit.chunk.doc_id: hit.score for hit in right}
        assert {hit.score for hit in fast if hit.chunk.doc_id in known} <= {*known.values()}
    # Kept as it is, with a segment of today's beside it.
    monkeypatch.undo()
    store.replace(documents(2500, 2500, 3)[0])
    monkeypatch.setattr("decant.index.segments.SEAL_FROM", 100)
    assert store.seal_sparse().startswith("seismic: 2 segments")
    assert json.loads(manifest.read_text())["facts"]["halves"] == [1]


def test_equal_rows_tie_whether_they_are_sealed_or_not(tmp_path, monkeypatch):
    monkeypatch.setattr("decant.index.seismic.EXACT_ROWS", 0)
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    rng = np.random.default_rng(0)
    weights = dict(zip(range(200), rng.gamma(2.0, 0.5, 200), strict=True))
    store.replace([one(f"sealed {i}", weights) for i in range(5)] + documents(0, 100, 1)[0])
    store.seal_sparse("seismic")
    store.replace([one(f"tail {i}", weights) for i in range(5)])
    searcher = Searcher(store, ENCODER)
    for seed in range(20):
        query = csr_array(np.random.default_rng(seed).gamma(2.0, 0.5, (1, TERMS)).astype(np.float32))
        query.data[200:] = 0
        [hits] = found(searcher, query)
        assert len({hit.score for hit in hits}) == 1
        assert hits == found(searcher, query, exact=True)[0]


def test_rows_with_weights_beyond_float16_are_not_sealed(tmp_path, monkeypatch):
    monkeypatch.setattr("decant.index.schema._halve", lambda *_: None)
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    store.replace([one("a", {1: 1e5})])
    assert store.seal_sparse("seismic") == "sparse exact: a weight is beyond 65,504, the most that a segment can hold"
    assert found(Searcher(store, ENCODER), one("q", {1: 1}).sparse)[0][0].score == 1e5


@pytest.mark.parametrize("share", [0.5, 0.1, 0.01])
def test_filters_keep_the_recall_of_sealed_segments(filled, share, tmp_path):
    store, matrix = filled
    store.seal_sparse("seismic")
    try:
        limit = int(3000 * share)
        queries = rows(30, 4)
        results = found(Searcher(store, ENCODER), queries, filter=f"metadata.n < {limit}")
        assert overlap(ids(results), truth(matrix[:limit], [f"d{i}" for i in range(limit)], queries, 10)) >= 0.97
        report = measure_recall(
            Searcher(store, ENCODER), ["q"] * 30, mode="sparse", vectors=Embeddings(*[np.zeros(30)] * 2, None, queries)
        )
        assert report.search == "seismic" and report.recall >= 0.97
    finally:
        store.seal_sparse("exact")


def test_rows_that_are_scored_again_lie_in_the_file_with_32_bit_numbers(tmp_path):
    rows = csr_array(random_array((50, 300), density=0.1, rng=np.random.default_rng(0), dtype=np.float32, format="csr"))
    rows.indptr, rows.indices = rows.indptr.astype(np.int64), rows.indices.astype(np.int64)
    seismic.write_segment(tmp_path, 0, np.arange(50), rows, 300)
    held = seismic.load_segment({file.name: file for file in tmp_path.iterdir()}, 0, 300, halves=False).rows
    assert held.indices.dtype == held.indptr.dtype == np.int32
    assert not held.indices.flags.writeable and not held.data.flags.writeable  # views of the mapped files
    assert (held != rows[np.diff(rows.indptr) > 0]).nnz == 0


def test_a_damaged_segment_is_never_loaded_and_search_goes_on_exactly(tmp_path):
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    batch, matrix = documents(0, 300, 1)
    store.replace(batch)
    store.seal_sparse("seismic")
    [file] = store.sparse_folder.glob("g-*/0-index.seismic")
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    searcher = Searcher(store, ENCODER)
    queries = rows(5, 2)
    assert ids(found(searcher, queries)) == truth(matrix, [f"d{i}" for i in range(300)], queries, 10)
    assert "index.seismic is not the one that was built" in searcher.sparse_reason
    assert "not the one that was built" in store.info()["sparse"]["reason"]


def test_a_query_without_terms_finds_nothing_and_a_row_without_terms_is_never_found(tmp_path):
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    [full], _ = documents(0, 1, 1)
    empty = indexed("empty", "nothing\n", ENCODER)
    store.replace([full, IndexedDocument(empty.document, "h", empty.chunks, empty.vectors, csr_array((1, TERMS)))])
    for kind in ("exact", "seismic"):
        store.seal_sparse(kind)
        searcher = Searcher(store, ENCODER)
        assert ids(found(searcher, csr_array((1, TERMS), dtype=np.float32))) == [[]]
        assert ids(found(searcher, full.sparse)) == [["d0"]]


@pytest.mark.parametrize(
    ("sparse", "message"),
    [
        (None, r"sparse of shape \(\), expected \(1, 3000\)"),
        (csr_array((2, TERMS), dtype=np.float32), "expected"),
        (csr_array(np.full((1, TERMS), np.nan, np.float32)), "NaN"),
        (csr_array(np.full((1, TERMS), -1, np.float32)), "negative"),
        (one("a", {4: 70_000}).sparse, "'d0': a sparse weight is 70000: give weights up to 65,504"),
        (csr_array((np.full(2, 4e4, np.float32), [4, 4], [0, 2]), shape=(1, TERMS)), "is 80000"),
    ],
)
def test_sparse_rows_that_do_not_fit_are_refused_and_nothing_is_stored(tmp_path, sparse, message):
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    [full], _ = documents(0, 1, 1)
    with pytest.raises(BatchError, match=message):
        store.replace([IndexedDocument(full.document, "h", full.chunks, full.vectors, sparse)])
    assert len(store.snapshot()) == 0


def test_queries_that_do_not_fit_are_refused(filled):
    searcher = Searcher(filled[0], ENCODER)
    with pytest.raises(QueryError, match="4 terms, this store's have 3000"):
        found(searcher, csr_array((1, 4), dtype=np.float32))
    with pytest.raises(QueryError, match="2 queries with 1 sparse"):
        given = Embeddings(np.ones(1), np.ones(1), None, csr_array((1, TERMS), dtype=np.float32))
        searcher.search_many(["q", "r"], mode="sparse", vectors=given)


def test_what_a_caller_has_not_encoded_is_encoded_here(filled):
    searcher = Searcher(filled[0], ENCODER)
    dense = ENCODER.encode(["text 7"]).dense
    assert searcher.search_many(["text 7"], vectors=dense) == [searcher.search("text 7")]


def test_any_set_of_modes_is_fused_and_hybrid_is_all_of_them(tmp_path):
    store = Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    store.replace(
        [indexed(n, t, ENCODER) for n, t in {"a": "red fox\n", "b": "blue whale\n", "c": "red whale\n"}.items()]
    )
    searcher = Searcher(store, ENCODER)
    for modes in itertools.combinations(["dense", "sparse", "lexical"], 2):
        assert set(searcher.search("red whale", mode="+".join(modes))[0].ranks) == set(modes)
    assert set(searcher.search("red whale")[0].ranks) == {"dense", "sparse", "lexical"}
    assert store.info()["modes"] == ["dense", "sparse", "lexical", "hybrid"]
    for bad in ("router", "dense+dense", "moee", "sparse+"):
        with pytest.raises(QueryError):
            searcher.search("x", mode=bad)


def test_blocks_of_postings_stay_few_and_hold_every_row_once():
    blocks, total = (), 0
    for size in [1, 1, 1, 5, 1, 30, 2, 2, 2, 200, 1]:
        made = csr_array(random_array((size, 50), density=0.2, rng=total, dtype=np.float32))
        blocks = appended(blocks, np.arange(total, total + size), made)
        total += size
        assert np.concatenate([block.keys for block in blocks]).tolist() == list(range(total))
        assert len(blocks) <= 4
    assert sum(block.rows.nnz for block in blocks) == sum(len(block.members) for block in blocks)
    assert isinstance(blocks[0], Postings)
