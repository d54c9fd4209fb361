"""What a search shows is kept in memory and stays what the table says."""

import numpy as np
import pytest

from decant.index import Searcher, Store, shown
from decant.index.snapshot import HIT_COLUMNS, Snapshot
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder(16)


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        store.replace([indexed(f"d{i}", f"one{i}\ntwo{i}\n", ENCODER, metadata={"n": i}) for i in range(20)])
        yield store


def wanted(snapshot, places):
    return snapshot.take(places, HIT_COLUMNS).to_pylist()


def test_rows_come_from_memory_once_they_were_read(store, monkeypatch):
    rows, snapshot = shown.ShownRows(), store.snapshot()
    places = np.array([7, 3, 3, 30])
    first = rows.take(snapshot, places)
    assert first == wanted(snapshot, places)
    assert rows.take(snapshot, np.array([30, 9])) == wanted(snapshot, np.array([30, 9]))
    monkeypatch.setattr(Snapshot, "take", None)
    assert rows.take(snapshot, places) == first


def test_who_reads_often_gets_all_rows_at_once(store, monkeypatch):
    monkeypatch.setattr(shown, "READS", 3)
    rows, snapshot = shown.ShownRows(), store.snapshot()
    every = np.arange(len(snapshot))
    expected = wanted(snapshot, every)
    for place in every[:3]:
        rows.take(snapshot, np.array([place]))
    monkeypatch.setattr(Snapshot, "take", None)
    assert rows.take(snapshot, every) == expected


def test_many_rows_are_not_read_ahead_and_room_is_bounded(store, monkeypatch):
    monkeypatch.setattr(shown, "READS", 1)
    monkeypatch.setattr(shown, "MOST_ROWS", 39)
    monkeypatch.setattr(shown, "ROOM", 1)
    rows, snapshot = shown.ShownRows(), store.snapshot()
    monkeypatch.setattr(Snapshot, "scan", None)
    for place in range(5):
        assert rows.take(snapshot, np.array([place])) == wanted(snapshot, np.array([place]))
    assert len(rows._places) == 1


def test_a_document_that_was_written_again_is_shown_as_it_is_now(store):
    """Its first chunk has the same vector as before, its metadata has changed."""
    searcher = Searcher(store, ENCODER)
    assert searcher.search("one4", mode="dense")[0].metadata == {"n": 4}
    store.replace([indexed("d4", "one4\n", ENCODER, metadata={"n": 5})])
    best = searcher.search("one4", mode="dense")[0]
    assert (best.metadata, best.chunk.text) == ({"n": 5}, "one4\n")
