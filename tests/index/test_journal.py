"""Commits that are taken up without Lance: right, or not taken up so."""

import os
import time
from datetime import timedelta
from pathlib import Path

import lancedb
import numpy as np
import pytest

from decant.index import Searcher, Store
from decant.index.errors import StoreDamaged
from decant.index.journal import MOST_ENTRIES, MOST_ROWS, RECENT
from decant.index.pinned import PinnedTable, Tables
from decant.index.schema import TABLE, rows_of
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder(16, outputs=("dense", "sparse"), terms=300)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([indexed(f"d{i}", f"text {i}\nsecond {i}\n", ENCODER) for i in range(40)])
        yield store


@pytest.fixture
def searcher(store):
    """One that has searched before."""
    searcher = Searcher(Store.open(store.root, read_only=True), ENCODER)
    searcher.search("text", mode="dense+sparse")
    return searcher


@pytest.fixture
def no_lance(monkeypatch):
    def forbid():
        for name in ("last", "scan", "batches"):
            monkeypatch.setattr(PinnedTable, name, None)
        monkeypatch.setattr(Tables, "newest", None)
        monkeypatch.setattr(Tables, "at", None)

    return forbid


def entries(store):
    return sorted((store.root / RECENT).iterdir())


def texts(searcher, query, **how):
    return [hit.chunk.text.strip() for hit in searcher.search(query, **how)]


def test_small_commits_are_taken_up_without_lance(store, searcher, no_lance):
    no_lance()
    store.replace([indexed("new", "a zebra\nand more\n", ENCODER)])
    assert texts(searcher, "a zebra", mode="dense+sparse")[0] == "a zebra"
    store.replace([indexed("d3", "an okapi\n", ENCODER), indexed("d4", "a quagga\nwith text 4\n", ENCODER)])
    store.replace([indexed("new", "no stripes\n", ENCODER)])
    assert texts(searcher, "an okapi", mode="dense+sparse")[0] == "an okapi"
    assert not {"a zebra", "text 3", "second 3", "text 4"} & {*texts(searcher, "a zebra", mode="dense", k=200)}
    store.delete(["d5", "d4"])
    left = texts(searcher, "text", mode="dense", k=200)
    assert len(left) == 74 + 1 + 1 and not {"text 5", "a quagga"} & {*left}


@pytest.mark.parametrize("mode", ["lexical", "dense"])
def test_rows_that_lance_orders_otherwise_are_found_by_its_names(store, searcher, mode):
    """Lance writes changed rows before new ones, whatever their order in the batch."""
    store.replace([indexed(name, f"animal {name}\n", ENCODER) for name in ("zebra", "d7", "okapi", "d2", "quagga")])
    store.replace([indexed("d2", "animal d2\nanimal two\n", ENCODER), indexed("emu", "animal emu\n", ENCODER)])
    assert searcher.store.snapshot().by_journal
    for name in ("zebra", "d7", "okapi", "quagga", "emu"):
        assert texts(searcher, f"animal {name}", mode=mode, filter=f"doc_id = '{name}'") == [f"animal {name}"]
    assert {*texts(searcher, "animal", mode=mode, filter="doc_id = 'd2'")} == {"animal d2", "animal two"}
    assert searcher.store.text("d2") == "animal d2\nanimal two\n"


def damage(path):
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def change_a_letter(path):
    raw = path.read_bytes()
    assert b"zebra" in raw
    path.write_bytes(raw.replace(b"zebra", b"cobra"))


def cut(path):
    path.write_bytes(path.read_bytes()[:-9])


def of_another_file(path):
    manifest = max(path.parents[1].glob("lance/*.lance/_versions/*.manifest"), key=os.path.getmtime)
    os.utime(manifest, ns=(1, 1))


@pytest.mark.parametrize("spoil", [damage, change_a_letter, cut, of_another_file, Path.unlink])
def test_what_is_not_the_commit_is_not_believed(store, searcher, spoil):
    store.replace([indexed("new", "a zebra\n", ENCODER)])
    [*_, path] = entries(store)
    spoil(path)
    assert texts(searcher, "a zebra", mode="dense")[0] == "a zebra"
    assert not searcher.store.snapshot().by_journal


def test_an_entry_of_another_version_is_not_believed(store, searcher):
    store.replace([indexed("new", "a zebra\n", ENCODER)])
    [*_, old] = entries(store)
    store.replace([indexed("new", "an okapi\n", ENCODER)])
    [*_, path] = sorted(entries(store), key=lambda entry: int(entry.name.split("-")[0]))
    path.write_bytes(b"")
    old.rename(old.with_name(path.name.split("-")[0] + "-" + old.name.split("-", 1)[1]))
    assert texts(searcher, "an okapi", mode="dense")[0] == "an okapi"


def test_commits_of_others_are_seen(store, searcher):
    """Whoever writes with LanceDB alone leaves no entry."""
    table = lancedb.connect(str(store.root / "lance")).open_table(TABLE)
    store.replace([indexed("new", "a zebra\n", ENCODER)])
    table.add(rows_of([indexed("other", "an okapi\n", ENCODER)], store.meta.layout))
    assert texts(searcher, "an okapi", mode="dense")[0] == "an okapi"
    table.delete("doc_id = 'new'")
    assert "a zebra" not in texts(searcher, "a zebra", mode="dense", k=200)
    store.replace([indexed("new", "a quagga\n", ENCODER)])
    assert texts(searcher, "a quagga", mode="dense")[0] == "a quagga"


def test_a_row_written_again_as_it_was_stays_found(store, searcher):
    store.replace([indexed("d3", "text 3\nsecond 3\n", ENCODER)])
    assert texts(searcher, "second 3", mode="dense")[0] == "second 3"
    assert len(texts(searcher, "text", mode="dense", k=200)) == 80


@pytest.mark.parametrize("left", ["next", "still"])
def test_what_a_killed_writer_leaves_hides_nothing(store, searcher, left):
    snapshot = searcher.store.snapshot()
    with store.writer():
        if left == "still":
            killed = store._journal.still(snapshot.version)
            killed.__enter__()
            assert store._journal.is_still(snapshot.version)
        else:
            store._journal.prepare(["new"], rows_of([indexed("new", "a lie\n", ENCODER)], store.meta.layout))
    began = time.perf_counter()
    with Store.open(store.root) as other:
        other.replace([indexed("new", "a zebra\n", ENCODER)])
    assert texts(searcher, "a zebra", mode="dense")[0] == "a zebra"
    assert "a lie" not in texts(searcher, "a lie", mode="dense", k=200)
    assert time.perf_counter() - began < 20


def test_a_reader_whose_files_are_cleaned_up_reads_the_new_ones(store, searcher):
    """While the writer still tidies up, and behind it."""
    for number in range(5):
        store.replace([indexed(f"d{number}", f"fresh {number}\n", ENCODER)])
        searcher.search("fresh", mode="dense")
    assert searcher.store.snapshot().by_journal
    with store.writer(), store._journal.still(searcher.store.snapshot().version):
        assert searcher.store.snapshot().by_journal
        time.sleep(0.01)
        store.table.optimize(cleanup_older_than=timedelta(milliseconds=1), delete_unverified=True)
        assert searcher.store.text("d33") == "text 33\nsecond 33\n"
        assert {*texts(searcher, "fresh", mode="dense", k=5)} == {f"fresh {i}" for i in range(5)}
    store.optimize()
    assert {*texts(searcher, "fresh", mode="dense+sparse", k=5)} == {f"fresh {i}" for i in range(5)}


def test_lance_is_asked_where_a_commit_from_the_journal_cannot_be_read(store, searcher):
    store.replace([indexed("new", "a zebra\n", ENCODER)])
    tried = []

    def run(snapshot):
        tried.append(snapshot.by_journal)
        if snapshot.by_journal:
            raise StoreDamaged("its files are gone")
        return len(snapshot)

    assert searcher.store.read(run) == 81
    assert tried == [True, False]


def test_damage_that_lance_sees_as_well_is_reported_once_it_was_asked_anew(store, searcher):
    tried = []

    def run(snapshot):
        tried.append(snapshot)
        raise StoreDamaged("its rows are gone")

    with pytest.raises(StoreDamaged, match="rows are gone"):
        searcher.store.read(run)
    assert len(tried) == 1 and searcher.store.snapshot() is not tried[0]


def test_entries_are_few_small_and_gone_behind_optimize(store, searcher):
    with store.writer():
        for number in range(MOST_ENTRIES + 5):
            store.replace([indexed(f"n{number}", f"new {number}\n", ENCODER)])
        assert len(entries(store)) == MOST_ENTRIES
        assert len(texts(searcher, "new", mode="dense", k=1000)) == 80 + MOST_ENTRIES + 5
        store.replace([indexed(f"m{i}", "line\n", ENCODER) for i in range(MOST_ROWS + 1)])
    assert not (store.root / RECENT / "next").exists()
    assert len(texts(searcher, "new", mode="dense", k=1000)) == 80 + MOST_ENTRIES + 5 + MOST_ROWS + 1
    store.optimize()
    assert not entries(store)


def test_a_journal_that_cannot_be_written_stops_no_commit(store, searcher):
    store.optimize()
    (store.root / RECENT).rmdir()
    (store.root / RECENT).write_text("a file where the folder should be")
    store.replace([indexed("new", "a zebra\n", ENCODER)])
    store.delete(["d1"])
    store.optimize()
    assert texts(searcher, "a zebra", mode="dense")[0] == "a zebra"


def test_many_commits_at_once_are_one_step(store, searcher, no_lance):
    before = searcher.store.snapshot()
    for number in range(10):
        store.replace([indexed(f"d{number % 4}", f"round {number}\n", ENCODER), indexed(f"e{number}", "e\n", ENCODER)])
    store.delete(["e3"])
    no_lance()
    now = searcher.store.snapshot()
    held = now.take(np.arange(len(now)), ["text"])["text"].to_pylist()
    assert sorted(t.strip() for t in held if t.startswith("round")) == [f"round {i}" for i in (6, 7, 8, 9)]
    assert len(now) == 80 - 8 + 4 + 9
    moved = now.moved(before)
    assert (moved >= 0).sum() == 72 and (before.keys[moved[:-1] >= 0] == now.keys[moved[moved >= 0]]).all()


def test_who_searches_by_words_takes_up_from_lance_at_once(store, searcher):
    """Lance is asked anyway then; asking for the rows alone afterwards took longer."""
    for number, (mode, by_journal) in enumerate(
        [("lexical", True), ("lexical", False), ("dense", False), ("dense", True)]
    ):
        store.replace([indexed("new", f"zebra {number}\n", ENCODER)])
        assert texts(searcher, f"zebra {number}", mode=mode)[0] == f"zebra {number}"
        assert searcher.store.snapshot().by_journal == by_journal
