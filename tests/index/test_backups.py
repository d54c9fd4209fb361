"""Snapshots, versions and copies: going back is a commit, and clean-up spares what was named."""

import pytest

from decant.index import Searcher, Store
from decant.index.backups import back_up_to, drop_snapshot, restore, take_snapshot, versions
from decant.index.errors import StoreError, StoreLocked, StoreNotFound
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()


@pytest.fixture
def store(tmp_path):
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as opened:
        opened.replace([indexed(f"d{i}", f"text {i}\n", ENCODER) for i in range(20)])
        yield opened


def test_a_snapshot_survives_clean_up_and_is_restored_whole_while_a_reader_looks_on(store):
    before = store.digest()
    assert take_snapshot(store, "good").name == "good"
    store.delete([f"d{i}" for i in range(15)])
    store.replace([indexed("d16", "other words\n", ENCODER)])
    store.optimize()
    with Store.open(store.root, encoder=ENCODER, read_only=True) as other:
        reader = Searcher(other, ENCODER)
        assert reader.search("other words", mode="lexical")[0].chunk.doc_id == "d16"
        number = restore(store, "good")
        assert store.digest() == before == other.digest()
        assert reader.search("other words", mode="lexical") == []
        assert len(reader.search("text", k=50, mode="lexical")) == 20
    assert versions(store)[-1].number == number
    assert {version.name for version in versions(store)} == {"", "good"}


def test_every_version_that_is_left_can_be_gone_back_to_by_number(store):
    start, digest = store.snapshot().version, store.digest()
    store.delete(["d1"])
    restore(store, start)
    assert store.digest() == digest
    store.optimize()
    with pytest.raises(StoreNotFound, match=f"no version {start}"):
        restore(store, start)


def test_a_dropped_snapshot_is_forgotten(store):
    take_snapshot(store, "a")
    with pytest.raises(StoreError, match="already"):
        take_snapshot(store, "a")
    drop_snapshot(store, "a")
    with pytest.raises(StoreNotFound, match="no version 'a'"):
        drop_snapshot(store, "a")


@pytest.mark.parametrize("name", ["", "a b", "../x", "-x", "x" * 101])
def test_names_that_are_none_are_refused(store, name):
    with pytest.raises(StoreError, match="no name"):
        take_snapshot(store, name)


def test_a_copy_is_a_store_of_its_own(store, tmp_path):
    back_up_to(store, tmp_path / "copies" / "one")
    digest = store.digest()
    store.delete(["d1"])
    with Store.open(tmp_path / "copies" / "one", encoder=ENCODER) as copy:
        assert copy.digest() == digest
        copy.delete(["d2"])
    with pytest.raises(StoreError, match="already"):
        back_up_to(store, tmp_path / "copies" / "one")


def test_nothing_is_changed_while_another_writes(store):
    with Store.open(store.root, encoder=ENCODER) as other, other.writer():
        for act in (lambda: take_snapshot(store, "a"), lambda: restore(store, 1), lambda: drop_snapshot(store, "a")):
            with pytest.raises(StoreLocked):
                act()
