"""What a store keeps, replaces, removes and refuses."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import numpy as np
import pytest

from decant.index import Chunk, Document, Store, identity
from decant.index.backups import restore, versions
from decant.index.errors import BatchError, StoreReadOnly
from decant.index.info import place_bytes
from decant.index.place import place_of
from decant.index.schema import TABLE
from decant.index.snapshot import Snapshot
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "store", encoder=ENCODER, create=True) as opened:
        yield opened


def test_a_document_comes_back_as_it_was_given(store):
    given = indexed(
        "a/ü'\"b.md",
        "Erste Zeile 🙂\nzweite Zeile\n",
        ENCODER,
        title="Tïtle",
        path="/x/a",
        media="markdown",
        metadata={"year": 2**60 + 1, "ratio": 0.1, "draft": True, "a b.c'd": "é"},
    )
    store.replace([given])
    doc_id = given.document.doc_id
    assert store.document(doc_id) == given.document
    assert store.text(doc_id) == given.document.text
    assert store.chunks(doc_id) == list(given.chunks)
    assert store.chunk(doc_id, 1) == given.chunks[1]
    state = store.documents()[doc_id]
    assert (state.content_hash, state.n_chunks, state.media, state.path, state.title) == (
        given.content_hash, 2, "markdown", "/x/a", "Tïtle",
    )  # fmt: skip
    positions = np.argsort(store.snapshot().scan(["ordinal"])["ordinal"].to_numpy())
    np.testing.assert_array_equal(store.snapshot().vectors(positions), given.vectors)


def test_offsets_count_code_points(store):
    store.replace([indexed("d", "🙂🙂 one\nnaïve two\n", ENCODER)])
    text = store.text("d")
    assert [text[c.start_char : c.end_char] for c in store.chunks("d")] == [c.text for c in store.chunks("d")]


def test_replacing_leaves_nothing_of_the_earlier_text(store):
    store.replace([indexed("a", "one\ntwo\nthree\n", ENCODER), indexed("b", "other\n", ENCODER)])
    store.replace([indexed("a", "two\n", ENCODER), indexed("c", "new\n", ENCODER)])
    assert {name: state.n_chunks for name, state in store.documents().items()} == {"a": 1, "b": 1, "c": 1}
    assert [c.text for c in store.chunks("a")] == ["two\n"]
    assert len(store.snapshot()) == 3


def test_a_batch_is_one_commit(store):
    store.replace([indexed("a", "one\ntwo\n", ENCODER), indexed("b", "x\n", ENCODER)])
    with store.writer():
        before = store.snapshot().version
        store.replace(
            [indexed("a", "changed\n", ENCODER), indexed("c", "n\n", ENCODER), indexed("b", "y\nz\n", ENCODER)]
        )
        assert store.snapshot().version == before + 1
        store.delete(["b", "c"])
        assert store.snapshot().version == before + 2
    assert list(store.documents()) == ["a"]


def test_deleting_what_is_not_there_removes_nothing(store):
    store.replace([indexed("a", "one\n", ENCODER)])
    assert store.delete(["zzz", "' OR true --"]) == 0
    assert store.delete(["a", "a", "zzz"]) == 1
    assert len(store.snapshot()) == 0
    with pytest.raises(KeyError):
        store.text("a")


def test_the_index_on_ids_changes_nothing_but_time(store, monkeypatch):
    monkeypatch.setattr(identity, "LEAST_ROWS", 4)
    names = [f"d'{i}" for i in range(8)]
    store.replace([indexed(name, f"one of {name}\ntwo\n", ENCODER) for name in names[:6]])
    store.optimize()
    assert ["doc_id"] in [index.columns for index in store.table.list_indices()]
    store.replace([indexed(name, f"new {name}\n", ENCODER) for name in names[4:]])
    assert store.delete([names[0], names[5], names[7], "d'9"]) == 3
    expected = dict.fromkeys(names[1:4], 2) | {names[4]: 1, names[6]: 1}
    for _ in range(2):
        assert {name: state.n_chunks for name, state in store.documents().items()} == expected
        assert [store.text(name).split()[0] for name in expected] == ["one"] * 3 + ["new"] * 2
        with pytest.raises(KeyError):
            store.text(names[0])
        store.optimize()
    assert [index.columns for index in store.table.list_indices()].count(["doc_id"]) == 1


def test_an_empty_batch_commits_nothing(store):
    before = store.snapshot().version
    store.replace([])
    assert store.snapshot().version == before


def test_the_order_of_writing_and_the_detours_do_not_change_the_content(tmp_path):
    texts = {f"d{i}": f"text {i}\nline two of {i}\n" for i in range(12)}
    digests = []
    for name, order in (("x", list(texts)), ("y", list(texts)[::-1])):
        with Store.open(tmp_path / name, encoder=ENCODER, create=True) as store:
            if name == "y":
                store.replace([indexed("gone", "z\n", ENCODER), indexed("d3", "an earlier text\n", ENCODER)])
            for start in range(0, 12, 5):
                store.replace([indexed(d, texts[d], ENCODER) for d in order[start : start + 5]])
            store.delete(["gone"])
            if name == "y":
                store.optimize()
            digests.append(store.digest())
    assert digests[0] == digests[1]


@pytest.mark.parametrize("changed", ["text", "title", "metadata", "vectors", "content_hash"])
def test_the_digest_sees_every_kind_of_change(store, changed):
    entry = indexed("a", "one\n", ENCODER, title="t", metadata={"n": 1})
    store.replace([entry])
    before = store.digest()
    if changed == "text":
        entry = indexed("a", "two\n", ENCODER, title="t", metadata={"n": 1})
    elif changed == "vectors":
        entry = replace(entry, vectors=np.nextafter(entry.vectors, np.float32(9)))
    elif changed == "content_hash":
        entry = replace(entry, content_hash="other")
    else:
        value = {"title": "u", "metadata": {"n": 2}}[changed]
        entry = replace(entry, document=replace(entry.document, **{changed: value}))
    store.replace([entry])
    assert store.digest() != before


def _bad(entry, **changes):
    return [replace(entry, **changes)]


GOOD = indexed("a", "one\ntwo\n", ENCODER)
NAN = GOOD.vectors.copy()
NAN[1, 3] = np.nan
BAD_BATCHES = {
    "occurs twice": [GOOD, GOOD],
    "no chunks": _bad(GOOD, chunks=[], vectors=np.zeros((0, 16), np.float32)),
    "NaN or infinity": _bad(GOOD, vectors=NAN),
    "shape (2, 8)": _bad(GOOD, vectors=GOOD.vectors[:, :8]),
    "shape (1, 16)": _bad(GOOD, vectors=GOOD.vectors[:1]),
    "not the document's text": _bad(GOOD, chunks=[GOOD.chunks[0], Chunk("a", 1, 3, 8, "two\n")]),
    "numbered from 0": _bad(GOOD, chunks=GOOD.chunks[::-1]),
    "empty doc_id": _bad(GOOD, document=Document("", "one\ntwo\n")),
    "metadata 'x' is 9223372036854775808": _bad(GOOD, document=replace(GOOD.document, metadata={"x": 2**63})),
    "metadata 'x' is nan": _bad(GOOD, document=replace(GOOD.document, metadata={"x": float("nan")})),
    "metadata 'x' is [1]": _bad(GOOD, document=replace(GOOD.document, metadata={"x": [1]})),
    "not Unicode": [indexed("s", "plain\n", ENCODER, title="\ud800")],
}


@pytest.mark.parametrize("message", BAD_BATCHES)
def test_a_batch_that_does_not_fit_stores_nothing(store, message):
    store.replace([indexed("kept", "old\n", ENCODER)])
    before = store.digest()
    with pytest.raises(BatchError) as caught:
        store.replace([indexed("good", "fine\n", ENCODER), *BAD_BATCHES[message]])
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert store.digest() == before


def test_a_reader_opened_before_sees_a_commit_after(store):
    with Store.open(store.root, read_only=True) as reader:
        assert dict(reader.documents()) == {}
        store.replace([indexed("a", "one\n", ENCODER)])
        assert list(reader.documents()) == ["a"]
        store.replace([indexed("a", "two\n", ENCODER)])
        assert reader.text("a") == "two\n"


def test_what_a_reader_keeps_between_versions_is_what_it_would_read_anew(tmp_path):
    """Whatever happens between: new rows, changed ones, deletes, compaction, and going back to an older version."""
    encoder = HashEncoder()
    random = np.random.default_rng(0)
    followed = 0
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store, Store.open(tmp_path / "s") as reader:
        for step in range(60):
            for _ in range(int(random.integers(1, 4))):
                changed_at_random(store, encoder, random, step)
            before, kept = reader._follower.latest, reader.snapshot()
            anew = Snapshot.read(reader._follower.tables.newest(TABLE), reader.place, reader.meta.layout)
            # What came by the journal stands in the order of its commit.
            order = np.argsort(kept.ids)
            np.testing.assert_array_equal(kept.ids[order], anew.ids, f"ids, {step}")
            for name in ("keys", "chunk_ids", "documents"):
                np.testing.assert_array_equal(getattr(kept.rows, name)[order], getattr(anew.rows, name), name)
            np.testing.assert_array_equal(kept.positions(anew.ids), order)
            moved = kept.moved(before) if before is not None else None
            if moved is not None:
                followed += 1
                places = {key: place for place, key in enumerate(kept.keys.tolist())}
                assert moved.tolist() == [places.get(key, -1) for key in before.keys.tolist()] + [-1]
            columns = ["vector", "chunk_id"]
            every = np.arange(len(kept))[::-1]
            assert kept.take(order[every], columns).equals(anew.take(every, columns))
            assert kept.take(order[every], ["document"]).equals(anew.take(every, ["document"]))
    assert 20 < followed < 60


def test_a_row_that_came_back_from_an_older_version_is_not_missed(tmp_path):
    """By number and by the last rows nothing has changed between the reader's two looks."""
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store, Store.open(tmp_path / "s") as reader:
        store.replace([indexed(f"d{i}", f"text {i}\n", ENCODER) for i in range(10)])
        full = store.snapshot().version
        store.delete(["d3"])
        assert len(reader.snapshot()) == 9
        restore(store, full)
        store.delete(["d5"])
        found = reader.snapshot().take(np.arange(9), ["doc_id"])["doc_id"].to_pylist()
        assert set(found) == {f"d{i}" for i in range(10)} - {"d5"}


def changed_at_random(store, encoder, random, step):
    """Mostly a few documents replaced; once in a while something rarer."""
    kind = random.choice(["replace"] * 8 + ["delete", "same", "optimize", "restore"])
    names = sorted({f"d{i}" for i in random.integers(0, 30, 3)})
    if kind == "delete":
        store.delete(names)
    elif kind == "optimize":
        store.optimize(keep=timedelta(minutes=5))
    elif kind == "restore":
        restore(store, versions(store)[-min(4, len(versions(store)))].number)
    else:
        edition = 0 if kind == "same" else step
        store.replace([indexed(name, f"{name} edition {edition}\n" * (1 + edition % 3), encoder) for name in names])


def test_a_writer_of_many_batches_keeps_to_what_the_table_holds(store):
    """Ids are kept after some batches; whatever else happens to the table in between, no document is there twice."""
    with store.writer():
        for number in range(15):
            store.replace([indexed(f"d{number}", f"text {number}\n", ENCODER)])
        full = store.snapshot().version
        store.delete(["d3"])
        store.replace([indexed("d14", "one\ntwo\n", ENCODER)])
        restore(store, full)
        store.replace([indexed("d3", "again\n", ENCODER)])
        store.optimize(keep=timedelta(minutes=5))
        store.replace([indexed("d4", "again\n", ENCODER)])
    assert len(store.snapshot()) == len(store.documents()) == 15
    assert store.text("d3") == store.text("d4") == "again\n" and store.text("d14") == "text 14\n"


def test_a_read_only_handle_refuses_every_write(store):
    with Store.open(store.root, encoder=ENCODER, read_only=True) as reader:
        for write in (
            lambda: reader.replace([GOOD]),
            lambda: reader.delete(["a"]),
            reader.optimize,
            reader.build_accelerator,
            lambda: reader.writer().__enter__(),
        ):
            with pytest.raises(StoreReadOnly):
                write()


def test_threads_that_share_a_handle_take_turns(store):
    def write(letter):
        for number in range(6):
            store.replace([indexed(f"{letter}{number % 3}", f"{letter} {number}\nsecond\n", ENCODER)])

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(write, "abcd"))
    assert {name: store.text(name)[:3] for name in store.documents()} == {
        f"{letter}{number - 3}": f"{letter} {number}" for letter in "abcd" for number in (3, 4, 5)
    }
    assert len(store.snapshot()) == 24


def test_many_documents_with_awkward_names_at_once(store):
    names = [f'it\'s {i} \\ "q" % _ -- ;\t{"x" * (i % 7)}' for i in range(700)]
    store.replace([indexed(name, f"text {i}\n", ENCODER) for i, name in enumerate(names)])
    store.replace([indexed(name, f"text {i} new\n", ENCODER) for i, name in enumerate(names)])
    assert set(store.documents()) == set(names)
    assert len(store.snapshot()) == 700
    assert store.delete(names[:650]) == 650
    assert set(store.documents()) == set(names[650:])


def test_rows_are_taken_in_the_order_asked_for(store):
    store.replace([indexed(f"d{i}", f"text {i}\n", ENCODER) for i in range(30)])
    store.replace([indexed(f"d{i}", f"new text {i}\n", ENCODER) for i in range(0, 30, 3)])
    store.optimize()
    snapshot = store.snapshot()
    every = snapshot.take(np.arange(30), ["doc_id"])["doc_id"].to_pylist()
    assert sorted(every) == sorted(store.documents())
    wanted = np.random.default_rng(1).integers(0, 30, 100)
    assert snapshot.take(wanted, ["doc_id"])["doc_id"].to_pylist() == [every[i] for i in wanted]
    assert snapshot.take(wanted[:0], ["doc_id"]).num_rows == 0
    found = {snapshot.chunk_ids[i].decode(): every[i] for i in range(30)}
    ids, names = (snapshot.scan(["chunk_id", "doc_id"])[column].to_pylist() for column in ("chunk_id", "doc_id"))
    assert found == dict(zip(ids, names, strict=True))


def test_many_small_writes_stay_small_after_optimize(tmp_path):
    documents = [indexed(f"d{i % 40}", f"round {i}\n" + "word " * 200, ENCODER) for i in range(160)]
    with Store.open(tmp_path / "bulk", encoder=ENCODER, create=True) as bulk:
        bulk.replace(documents[-40:])
        bulk.optimize()
        wanted = bulk.info()["bytes"]
    with Store.open(tmp_path / "small", encoder=ENCODER, create=True) as small:
        with small.writer():
            for document in documents:
                small.replace([document])
        small.optimize()
        assert small.info()["bytes"] < 2 * wanted
        assert len(small.snapshot()) == 80


def test_a_long_run_of_small_commits_is_compacted_on_the_way(store, monkeypatch):
    monkeypatch.setattr("decant.index.upkeep.FEWEST_COMMITS", 10)
    with store.writer():
        for number in range(25):
            store.replace([indexed(f"d{number}", f"text {number}\n", ENCODER)])
        assert store.info()["lexical"]["not_yet_indexed"] == 5
    assert len(store.documents()) == 25


def test_optimize_removes_what_crashes_left_behind(store):
    store.replace([indexed("a", "one\ntwo\n", ENCODER)])
    data = store.root / "lance" / "chunks.lance" / "data"
    orphan = data / ("0" * 56 + ".lance")
    orphan.write_bytes(next(data.glob("*.lance")).read_bytes())
    half_built = store.dense_folder / "g-00000001-abandoned"
    half_built.mkdir(parents=True)
    digest = store.digest()
    store.optimize()
    assert not orphan.exists() and not half_built.exists()
    assert store.digest() == digest


def test_info_says_what_is_there_and_how_it_is_searched(store):
    store.replace([indexed("a", "one\ntwo\n", ENCODER), indexed("b", "three\n", ENCODER)])
    info = store.info()
    assert (info["documents"], info["chunks"], info["dimension"]) == (2, 3, 16)
    assert info["fingerprint"] == ENCODER.fingerprint
    assert info["dense"]["search"] == "exact" and "searched exactly" in info["dense"]["reason"]
    assert info["bytes"] > 1000


@pytest.mark.slow
def test_a_thousand_small_upserts_leave_less_than_twice_one_bulk_load(tmp_path):
    encoder = HashEncoder(64)
    documents = [indexed(f"d{i}", f"some words of text number {i}\n" * 4, encoder) for i in range(1000)]
    sizes = {}
    for name, size in (("bulk", 1000), ("small", 1)):
        with Store.open(tmp_path / name, encoder=encoder, create=True) as store, store.writer():
            for start in range(0, 1000, size):
                store.replace(documents[start : start + size])
            store.optimize()
        sizes[name] = place_bytes(place_of(tmp_path / name))
        digest = Store.open(tmp_path / name, read_only=True).digest()
        assert sizes.setdefault("digest", digest) == digest
    assert sizes["small"] < 2 * sizes["bulk"]
