"""Dense search: exact against a plain float64 ranking, accelerators against exact, and what must not be loaded."""

import json

import numpy as np
import pytest

from decant.index import Chunk, Document, IndexedDocument, Searcher, Store, accelerator, generations
from decant.index.accelerator import Accelerator, choose_kind
from decant.index.errors import QueryError
from decant.index.generations import MANIFEST, UnusableGeneration, publish, read_manifest, verified
from decant.index.recall import measure_recall
from decant.index.testing import HashEncoder, indexed
from decant.index.topk import candidates, exact_scores, normalized, ranked

DIMENSION = 32
ENCODER = HashEncoder(DIMENSION)
RNG = np.random.default_rng(7)
CENTRES = RNG.standard_normal((60, DIMENSION))


def vectors(n, seed):
    """Clustered unit vectors: what a graph index meets in practice."""
    rng = np.random.default_rng(seed)
    noisy = CENTRES[rng.integers(0, len(CENTRES), n)] + 0.7 * rng.standard_normal((n, DIMENSION))
    return normalized(noisy.astype(np.float32))


def put(store, rows, first=0):
    """One chunk per vector, document `v<number>`."""
    batch = []
    for number, row in enumerate(rows, first):
        name = f"v{number}"
        document = Document(name, "text", metadata={"tenth": number % 10, "n": number})
        batch.append(IndexedDocument(document, "h", [Chunk(name, 0, 0, 4, "text")], row[None]))
    store.replace(batch)


def names(hits):
    return [hit.chunk.doc_id for hit in hits]


@pytest.mark.parametrize(
    ("n", "k", "share"), [(1, 1, 1.0), (50, 7, 1.0), (300, 300, 1.0), (300, 10, 0.5), (300, 10, 0.02)]
)
def test_exact_search_is_the_plain_float64_ranking(n, k, share):
    rows, queries = vectors(n, 1), vectors(9, 2)
    allowed = None if share == 1.0 else np.random.default_rng(3).random(n) < share
    truth = rows.astype(np.float64) @ queries.astype(np.float64).T
    if allowed is not None:
        truth[~allowed] = -np.inf
    ids = np.array([f"{i:032x}" for i in range(n)], "S32")
    wanted = min(k, n if allowed is None else int(allowed.sum()))
    for query, found in enumerate(candidates(rows, queries, k, allowed)):
        top = ranked(found, exact_scores(rows[found], queries[query]), ids[found], k)
        np.testing.assert_array_equal(top.positions, np.argsort(-truth[:, query], kind="stable")[:wanted])


def test_no_row_allowed_finds_nothing():
    assert [len(c) for c in candidates(vectors(20, 1), vectors(2, 2), 5, np.zeros(20, np.bool_))] == [0, 0]


def test_the_order_of_the_rows_does_not_change_the_result():
    rows, queries = vectors(2000, 1), vectors(5, 2)
    rows[100:160] = rows[7]  # many equal scores
    ids = np.array([f"{i:032x}" for i in RNG.permutation(2000)], "S32")
    shuffle = np.random.default_rng(4).permutation(2000)
    results = []
    for order in (np.arange(2000), shuffle):
        moved, moved_ids = np.ascontiguousarray(rows[order]), ids[order]
        tops = [
            ranked(c, exact_scores(moved[c], q), moved_ids[c], 80)
            for c, q in zip(candidates(moved, queries, 80, None), queries, strict=True)
        ]
        results.append([(moved_ids[t.positions].tolist(), t.scores.tolist()) for t in tops])
    assert results[0] == results[1]


def test_small_stores_are_searched_exactly_and_large_ones_not():
    much = 1 << 40
    assert choose_kind(accelerator.ACCELERATE_FROM - 1, 384, much)[0] == "exact"
    assert choose_kind(accelerator.ACCELERATE_FROM, 384, much)[0] == "pq"
    assert choose_kind(100_000_000, 384, much)[0] == "pq"


@pytest.mark.parametrize(
    ("memory_gib", "kind"), [(64, "pq"), (3, "pq"), (2.7, "lance-hnsw"), (2, "lance-rq"), (1, "lance-rq")]
)
def test_little_memory_calls_for_smaller_accelerators(memory_gib, kind):
    chosen, reason = choose_kind(1_000_000, 384, int(memory_gib * 2**30))
    assert chosen == kind
    assert "1,000,000 chunks" in reason and "iB" in reason


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A store of 6,000 vectors with a graph; tests must not write to it."""
    with Store.open(tmp_path_factory.mktemp("d") / "s", encoder=ENCODER, create=True) as store:
        put(store, vectors(6000, 11))
        assert store.build_accelerator("hnsw").startswith("hnsw")
        yield store


def recall_of(view, queries, mask=None):
    """Share of the exact 10 best scores that a view finds."""
    unit = normalized(queries)
    pairs = zip(view.search(unit, 10, mask), view.search(unit, 10, mask, exact=True), strict=True)
    return np.mean([(mine.scores >= truth.scores[-1]).sum() / len(truth) for mine, truth in pairs])


def test_the_accelerated_result_is_nearly_the_exact_one(built):
    searcher = Searcher(built, ENCODER)
    report = measure_recall(searcher, [""] * 200, vectors=vectors(200, 12))
    assert report.search == "hnsw" and report.queries == 200
    assert report.recall >= 0.98
    assert 0 < report.milliseconds[0] <= report.milliseconds[1]


def test_recall_is_measured_with_real_queries_and_filters(built):
    report = measure_recall(Searcher(built, ENCODER), ["one two", "three"], k=5, filter="metadata.tenth = 3")
    assert (report.queries, report.k, report.recall) == (2, 5, 1.0)
    with pytest.raises(QueryError, match="at least one"):
        measure_recall(Searcher(built, ENCODER), [])


def test_accelerated_scores_are_the_exact_scores(built):
    searcher = Searcher(built, ENCODER)
    queries = vectors(20, 13)
    for fast, exact in zip(
        searcher.search_vectors(queries, k=5), searcher.search_vectors(queries, k=5, exact=True), strict=True
    ):
        scores = {hit.chunk.doc_id: hit.score for hit in exact}
        assert all(scores[hit.chunk.doc_id] == hit.score for hit in fast if hit.chunk.doc_id in scores)
        assert fast[0].score == exact[0].score


@pytest.mark.parametrize("share", [0.5, 0.1, 0.03])
@pytest.mark.parametrize("together", [False, True])
def test_a_filter_keeps_the_graphs_recall(built, monkeypatch, share, together):
    """Also where the filter's rows lie together, far from most queries."""
    monkeypatch.setattr(Accelerator, "exact_is_better", lambda *_: False)
    view = Searcher(built, ENCODER).view(built.snapshot())
    position = view.sealed.vectors[view.sealed_positions.argsort()] @ CENTRES[0] if together else RNG.random(6000)
    mask = position >= np.quantile(position, 1 - share)
    assert recall_of(view, vectors(60, 14), mask) >= 0.95
    found = view.search(vectors(60, 14), 10, mask)
    assert all(mask[f.positions].all() and len(f) == 10 for f in found)


def test_very_selective_filters_are_searched_exactly(built):
    view = Searcher(built, ENCODER).view(built.snapshot())
    assert view.sealed.exact_is_better(10, 60) and not view.sealed.exact_is_better(10, 5000)
    mask = np.zeros(6000, np.bool_)
    mask[[5, 900, 4000]] = True
    assert recall_of(view, vectors(30, 15), mask) == 1.0


@pytest.fixture
def changed(tmp_path):
    """A graph over 2,000 vectors, after which 300 were deleted, 200 changed and 100 added."""
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        put(store, vectors(2000, 21))
        store.build_accelerator("hnsw")
        store.delete([f"v{i}" for i in range(300)])
        put(store, vectors(200, 22), first=300)
        put(store, vectors(100, 23), first=5000)
        yield store


def test_changes_since_the_build_are_tombstones_and_an_exact_tail(changed):
    dense = changed.info()["dense"]
    assert (dense["covered"], dense["tombstones"], dense["exact_tail"]) == (1500, 500, 300)
    searcher = Searcher(changed, ENCODER)
    assert recall_of(searcher.view(changed.snapshot()), vectors(100, 24)) >= 0.98
    for row in range(5):
        added = searcher.search_vectors(vectors(100, 23)[row : row + 1], k=1)[0]
        assert names(added) == [f"v{5000 + row}"] and added[0].score == pytest.approx(1.0, abs=1e-6)
        moved = searcher.search_vectors(vectors(200, 22)[row : row + 1], k=1)[0]
        assert names(moved) == [f"v{300 + row}"]
    everything = {name for hits in searcher.search_vectors(vectors(200, 21), k=50) for name in names(hits)}
    assert not everything & {f"v{i}" for i in range(300)}


def test_the_tail_is_searched_with_a_filter_too(changed):
    hits = Searcher(changed, ENCODER).search_vectors(vectors(3, 23), k=10, filter="metadata.n >= 5000")
    assert all(set(names(row)) <= {f"v{i}" for i in range(5000, 5100)} and len(row) == 10 for row in hits)


def test_compaction_keeps_the_accelerator_valid(changed):
    before = Searcher(changed, ENCODER).search_vectors(vectors(20, 24), k=10)
    changed.optimize()
    assert changed.info()["dense"]["covered"] == 1500
    assert Searcher(changed, ENCODER).search_vectors(vectors(20, 24), k=10) == before


def test_automatic_building_rebuilds_only_what_has_aged(changed, monkeypatch):
    monkeypatch.setattr(accelerator, "ACCELERATE_FROM", 100)
    assert changed.build_accelerator().startswith("pq: 1,800 chunks: their 0 MiB of vectors fit")
    dense = changed.info()["dense"]
    assert dense["tombstones"] == 0 and "fit in half of the memory; an inverted file" in dense["reason"]
    assert "kept" in changed.build_accelerator()
    monkeypatch.setattr(accelerator, "ACCELERATE_FROM", 10_000)
    assert changed.build_accelerator().startswith("exact")
    assert list(changed.dense_folder.glob("g-*")) == []


@pytest.mark.parametrize("kind", list(accelerator.INVERTED))
def test_inverted_files_search_as_well_however_they_keep_vectors(changed, kind):
    changed.build_accelerator(kind)
    assert changed.info()["dense"]["search"] == kind
    searcher = Searcher(changed, ENCODER)
    assert recall_of(searcher.view(changed.snapshot()), vectors(100, 24)) >= 0.95
    half = changed.snapshot().mask("metadata.tenth < 5")
    assert recall_of(searcher.view(changed.snapshot()), vectors(100, 24), half) >= 0.95


def test_a_reader_takes_up_a_new_generation_and_survives_the_old_ones_end(changed):
    with Store.open(changed.root, read_only=True) as other:
        reader = Searcher(other, ENCODER)
        before = reader.search_vectors(vectors(10, 24), k=5, exact=True)
        first = reader.view(other.snapshot()).sealed
        changed.build_accelerator("hnsw")
        assert reader.search_vectors(vectors(10, 24), k=5, exact=True) == before
        assert reader.view(other.snapshot()).sealed.manifest.generation != first.manifest.generation
    assert len(list(changed.dense_folder.glob("g-*"))) == 1


def _flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def _edit_manifest(folder, **changes):
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, **changes}))


DAMAGE = {
    "index.faiss is not the one": lambda folder, g: _flip(g / "index.faiss"),
    "vectors.npy is not the one": lambda folder, g: _flip(g / "vectors.npy"),
    "passages.jsonl is not the one": lambda folder, g: _flip(g / "passages.jsonl"),
    "keys.npy is not the one": lambda folder, g: (g / "keys.npy").write_bytes(b""),
    "index.faiss cannot be read": lambda folder, g: (g / "index.faiss").unlink(),
    "another model's vectors": lambda folder, g: _edit_manifest(folder, fingerprint="other"),
    "manifest cannot be read": lambda folder, g: (folder / MANIFEST).write_text("{"),
    "('kind')": lambda folder, g: _edit_manifest(folder, facts={}),
    "its facts are none": lambda folder, g: _edit_manifest(folder, facts=None),
    ".npy')": lambda folder, g: _edit_manifest(folder, files={}),
    "names a folder outside": lambda folder, g: _edit_manifest(folder, generation="../../g-x"),
}


@pytest.mark.parametrize("reason", DAMAGE)
def test_a_damaged_accelerator_is_never_loaded_and_the_reason_is_told(changed, monkeypatch, caplog, reason):
    folder = changed.dense_folder
    DAMAGE[reason](folder, next(folder.glob("g-*")))
    monkeypatch.setattr(accelerator.faiss, "read_index", lambda *_: pytest.fail("a damaged file reached faiss"))
    searcher = Searcher(changed, ENCODER)
    assert names(searcher.search_vectors(vectors(100, 23)[:1], k=1)[0]) == ["v5000"]
    assert reason in searcher.dense_reason and reason in caplog.text
    status = changed.info()["dense"]
    assert status["search"] == "exact" and reason in status["reason"]


def test_files_that_nobody_touched_are_believed_at_a_start_and_read_for_information(changed, monkeypatch):
    digest, read = generations._digest, []
    monkeypatch.setattr(generations, "_digest", lambda path: read.append(path.name) or digest(path))
    searcher = Searcher(changed, ENCODER)
    searcher.search_vectors(vectors(1, 1))
    assert searcher.view(changed.snapshot()).sealed is not None and not read
    assert changed.info()["dense"]["search"] == "hnsw" and "index.faiss" in read
    read.clear()
    [file] = changed.dense_folder.glob("g-*/keys.npy")
    copy = file.read_bytes()
    file.unlink()
    file.write_bytes(copy)
    again = Searcher(changed, ENCODER)
    again.search_vectors(vectors(1, 1))
    assert again.view(changed.snapshot()).sealed is not None and read == ["keys.npy"]


def test_building_again_repairs_a_damaged_accelerator(changed, caplog):
    (changed.dense_folder / MANIFEST).write_text("{")
    searcher = Searcher(changed, ENCODER)
    searcher.search_vectors(vectors(1, 1))
    assert searcher.dense_reason and caplog.text
    changed.build_accelerator("hnsw")
    searcher.search_vectors(vectors(1, 1))
    assert searcher.dense_reason == "" and searcher.view(changed.snapshot()).sealed is not None
    assert len(list(changed.dense_folder.glob("g-*"))) == 1


def test_a_build_that_fails_leaves_the_old_generation_in_use(tmp_path):
    publish(tmp_path, 1, "fp", {"rows": 1}, lambda folder: (folder / "a").write_text("one") and None)

    def dies(folder):
        (folder / "a").write_text("two")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        publish(tmp_path, 2, "fp", {"rows": 2}, dies)
    manifest = read_manifest(tmp_path)
    assert manifest.facts == {"rows": 1}
    assert verified(tmp_path, manifest, "fp")["a"].read_text() == "one"
    assert len(list(tmp_path.glob("g-*"))) == 1


def test_a_folder_that_no_manifest_names_is_swept_away(tmp_path):
    (tmp_path / "g-00000001-dead").mkdir()
    publish(tmp_path, 2, "fp", {}, lambda folder: (folder / "a").write_text("x") and None)
    assert [f.name for f in tmp_path.glob("g-*")] == [read_manifest(tmp_path).generation]
    with pytest.raises(UnusableGeneration, match="another model"):
        verified(tmp_path, read_manifest(tmp_path), "other")


def test_vectors_already_in_memory_are_not_read_again(tmp_path, monkeypatch):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        put(store, vectors(500, 31))
        searcher = Searcher(store, ENCODER)
        searcher.search("x", mode="dense")
        store.replace([indexed("new", "one\ntwo\n", ENCODER)])
        read = []
        kept = type(store.snapshot()).vectors
        monkeypatch.setattr(
            type(store.snapshot()),
            "vectors",
            lambda self, positions: read.append(len(positions)) or kept(self, positions),
        )
        assert names(searcher.search("one", mode="dense", k=1)) == ["new"]
        assert read == [2]
