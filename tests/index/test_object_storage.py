"""A store in a bucket: the same content, one writer, nothing that a folder's store would not show."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from decant.index import Searcher, Store, lease
from decant.index.backups import back_up_to, restore, take_snapshot
from decant.index.errors import StoreError, StoreLocked, StoreNotFound
from decant.index.ingest import index_paths
from decant.index.lease import Lease
from decant.index.place import place_of
from decant.index.testing import HashEncoder, indexed

pytest.importorskip("obstore", reason="obstore is not installed: pip install 'decant[s3]'")
ENCODER = HashEncoder()


def open_store(address, **options):
    return Store.open(address, encoder=ENCODER, create=True, **options)


def test_it_holds_what_a_folder_would(bucket, tmp_path):
    documents = tmp_path / "texts"
    documents.mkdir()
    for number in range(6):
        (documents / f"{number}.md").write_text(f"# Part {number}\n\nriver number {number} runs to the sea\n")
    stores = [open_store(f"{bucket}/some/where"), open_store(tmp_path / "store")]
    for store in stores:
        index_paths(store, ENCODER, [documents])
    (documents / "2.md").write_text("a lake\n")
    (documents / "3.md").unlink()
    reports = [index_paths(store, ENCODER, [documents]) for store in stores]
    assert reports[0] == reports[1] and (reports[0].changed, reports[0].removed) == (1, 1)
    assert stores[0].digest() == stores[1].digest()
    hits = [Searcher(store, ENCODER).search("river number 4", k=3, filter="path LIKE '%md'") for store in stores]
    assert hits[0] == hits[1] and len(hits[0]) == 3
    facts = stores[0].info()
    assert facts["path"] == f"{bucket}/some/where" and facts["bytes"] > 1000 and facts["documents"] == 5
    # A Path folds the slashes of an address; that must not make a folder called "s3:".
    assert Store.open(Path(f"{bucket}/some/where"), read_only=True).digest() == stores[1].digest()


def test_a_reader_sees_a_commit_with_its_next_search_and_old_versions_come_back(bucket):
    writer, reader = open_store(bucket), open_store(bucket)
    searcher = Searcher(reader, ENCODER)
    with writer.writer():
        writer.replace([indexed("a", "red fox\n", ENCODER)])
        assert [hit.chunk.doc_id for hit in searcher.search("fox")] == ["a"]
    take_snapshot(writer, "before")
    writer.delete(["a"])
    writer.optimize()
    assert searcher.search("fox") == []
    restore(writer, "before")
    assert [hit.chunk.doc_id for hit in searcher.search("fox")] == ["a"]


def test_of_two_writers_one_is_refused(bucket):
    first, second = open_store(bucket), open_store(bucket)
    with first.writer():
        with pytest.raises(StoreLocked, match="is being written by process"):
            second.replace([indexed("a", "text\n", ENCODER)])
        first.replace([indexed("b", "text\n", ENCODER)])
    second.replace([indexed("a", "text\n", ENCODER)])
    assert sorted(first.documents()) == ["a", "b"]


def test_of_many_who_want_the_lease_at_once_one_has_it(bucket):
    leases = [Lease(place_of(bucket), "lock") for _ in range(8)]

    def take(one):
        try:
            one.acquire()
        except StoreLocked:
            return False
        return True

    for _ in range(2):  # made, then taken over from one who gave it back
        with ThreadPoolExecutor(8) as threads:
            assert sum(threads.map(take, leases)) == 1
        for one in leases:
            one.release()


def test_a_lease_that_is_renewed_stays_and_a_dead_owner_s_is_taken_over(bucket, monkeypatch):
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.05)
    place = place_of(bucket)
    alive, other = Lease(place, "lock"), Lease(place, "lock")
    alive.acquire()
    wait_until(lambda: renewed(place) > 3)
    alive.check()
    # Its owner dies: nobody renews it, and to the next one it is old at once.
    alive._stop.set()
    alive._renewer.join()
    with pytest.raises(StoreLocked):
        other.acquire()
    monkeypatch.setattr(lease, "EXPIRES", -1e9)
    other.acquire()
    monkeypatch.setattr(lease, "EXPIRES", 90.0)
    # It only slept: it finds that the lease is another's, and leaves that alone when it lets go.
    alive._stop.clear()
    alive._keep()
    with pytest.raises(StoreLocked, match="was lost"):
        alive.check()
    alive.release()
    with pytest.raises(StoreLocked):
        Lease(place, "lock").acquire()
    other.release()


def renewed(place, seen=[]):  # noqa: B006
    """How many different times of renewal have been seen."""
    value = json.loads(place.read("lock"))["renewed"]
    if value not in seen:
        seen.append(value)
    return len(seen)


def wait_until(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"


def test_what_cannot_work_is_refused_in_one_line(bucket, tmp_path, monkeypatch):
    with pytest.raises(StoreNotFound, match="no store at s3://"):
        Store.open(bucket)
    with pytest.raises(StoreNotFound, match="no bucket"):
        open_store("s3://nobody-made-this-bucket/x")
    with pytest.raises(StoreError, match="give a folder or s3://"):
        Store.open("gs://bucket/x")
    with open_store(bucket) as store, pytest.raises(StoreError, match="storage's own tools"):
        back_up_to(store, tmp_path / "copy")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(StoreError, match="cannot be reached") as caught:
        Store.open(bucket)
    assert "\n" not in str(caught.value)
