"""Lance's own vector index: for what neither memory nor a bucket suits; scored exactly, kept up by commits."""

import importlib.util

import numpy as np
import pytest

from decant.index import Chunk, Document, IndexedDocument, Searcher, Store
from decant.index.accelerator import choose_kind
from decant.index.lance_ann import KINDS, kind_of
from decant.index.recall import measure_recall
from decant.index.testing import HashEncoder
from decant.index.topk import normalized

DIMENSION = 32
ENCODER = HashEncoder(DIMENSION)
CENTRES = np.random.default_rng(7).standard_normal((60, DIMENSION))


def vectors(n, seed):
    rng = np.random.default_rng(seed)
    noisy = CENTRES[rng.integers(0, len(CENTRES), n)] + 0.7 * rng.standard_normal((n, DIMENSION))
    return normalized(noisy.astype(np.float32))


def put(store, rows, first=0):
    batch = []
    for number, row in enumerate(rows, first):
        document = Document(f"v{number}", "text", metadata={"hundredth": number % 100, "odd": number % 2})
        batch.append(IndexedDocument(document, "h", [Chunk(f"v{number}", 0, 0, 4, "text")], row[None]))
    store.replace(batch)


def names(hits):
    return [hit.chunk.doc_id for hit in hits]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_finds_what_exact_search_finds_filtered_and_after_commits(kind, tmp_path):
    rows, queries = vectors(3000, 1), vectors(40, 2)
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        put(store, rows)
        searcher = Searcher(store, ENCODER)
        exact = searcher.search_vectors(queries, k=10)
        assert store.build_accelerator(kind) == f"{kind}: as asked for"
        report = measure_recall(searcher, ["query"] * len(queries), vectors=queries)
        assert (report.search, report.recall >= 0.95) == (kind, True), report
        found = searcher.search_vectors(queries, k=10)
        scores = {(q, hit.chunk.doc_id): hit.score for q, hits in enumerate(exact) for hit in hits}
        same = [
            (scores[q, h.chunk.doc_id], h.score)
            for q, hs in enumerate(found)
            for h in hs
            if (q, h.chunk.doc_id) in scores
        ]
        assert len(same) >= 380 and all(a == b for a, b in same), "scores are the exact ones"
        for filter, share in (("metadata.odd = 1", 0.95), ("metadata.hundredth = 3", 1.0)):
            truth = searcher.search_vectors(queries, k=5, filter=filter, exact=True)
            mine = searcher.search_vectors(queries, k=5, filter=filter)
            recall = np.mean([len({*names(a)} & {*names(b)}) / 5 for a, b in zip(truth, mine, strict=True)])
            assert recall >= share, filter
        # What comes and goes afterwards is seen with the commit.
        put(store, queries[:3], first=9000)
        store.delete([names(exact[5])[0]])
        found = searcher.search_vectors(queries[:6], k=10)
        assert [names(hits)[0] for hits in found[:3]] == ["v9000", "v9001", "v9002"]
        assert names(exact[5])[0] not in names(found[5])
        facts = store.info()["dense"]
        assert facts["search"] == kind and facts["exact_tail"] == 3
        assert store.build_accelerator("exact") == "exact search: as asked for"
        assert store.info()["dense"]["search"] == "exact"
        assert names(searcher.search_vectors(queries[:1], k=3)[0])[0] == "v9000"


def test_a_reader_sees_it_come_stay_through_commits_and_go(tmp_path):
    kind, other = KINDS[0], KINDS[-1]
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        put(store, vectors(600, 1))
        with Store.open(tmp_path / "s", encoder=ENCODER, read_only=True) as reader:
            seen = []
            for number, change in enumerate([None, kind, None, None, other, None, "exact", None]):
                if change is not None:
                    store.build_accelerator(change)
                    seen.append(kind_of(reader.snapshot()))
                put(store, vectors(1, number), 1000 + number)
                seen.append(kind_of(reader.snapshot()))
            assert seen == ["", kind, kind, kind, kind, other, other, other, "", "", ""]


def test_memory_and_place_choose_it_and_the_reason_is_told():
    kind, reason = choose_kind(10_000_000, 384, 8 << 30)
    assert kind == "lance-rq" and "do not fit in half of the memory" in reason
    kind, reason = choose_kind(100_000, 384, 64 << 30, bucket=True)
    assert kind == "lance-hnsw" and "in a bucket" in reason
    assert choose_kind(1000, 384, 64 << 30, bucket=True)[0] == "exact"
    assert choose_kind(10_000_000, 384, 64 << 30)[0] != "lance-rq"


@pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="obstore is not installed")
def test_in_a_bucket_lance_s_index_needs_no_copy_and_others_are_copied_and_checked(bucket, tmp_path, monkeypatch):
    rows, queries = vectors(1000, 1), vectors(10, 2)
    with Store.open(bucket, encoder=ENCODER, create=True) as store:
        put(store, rows)
        exact = Searcher(store, ENCODER).search_vectors(queries, k=5)
        store.build_accelerator("lance-hnsw")
        assert not (store.root / "accelerators").exists()
        assert store.build_accelerator("hnsw") == "hnsw: as asked for"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another-machine"))
    reader = Store.open(bucket, encoder=ENCODER, read_only=True)
    searcher = Searcher(reader, ENCODER)
    found = searcher.search_vectors(queries, k=5)
    assert np.mean([len({*names(a)} & {*names(b)}) / 5 for a, b in zip(exact, found, strict=True)]) >= 0.95
    built = f"built from version {reader.snapshot().version - 1}"
    assert reader.info()["dense"] == {
        "search": "hnsw", "reason": f"{built}; as asked for; width 64 found 100.0% of a sample",
        "covered": 1000, "exact_tail": 0, "tombstones": 0,
    }  # fmt: skip
    # A file that was altered in the bucket is not taken; the copy that is here stays in use.
    place = reader.place
    [vectors_file] = [name for name in place.names("accelerators") if name.endswith("vectors.npy")]
    import obstore

    content = bytearray(bytes(obstore.get(place.objects, vectors_file).bytes()))
    content[-1] ^= 1
    obstore.put(place.objects, vectors_file, bytes(content))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "third-machine"))
    third = Searcher(Store.open(bucket, encoder=ENCODER, read_only=True), ENCODER)
    assert [names(hits) for hits in third.search_vectors(queries, k=5)] == [names(hits) for hits in exact]
    assert third.store.info()["dense"]["search"] == "exact"
    assert not list(third.store.root.glob("accelerators/*/manifest.json"))
