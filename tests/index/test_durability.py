"""What is acknowledged stays: a disk that fills up in mid-run, and thousands of small commits under a reader's eyes."""

import shutil
import subprocess
import threading
from random import Random

import pytest

from decant.index import Searcher, Store
from decant.index.errors import StoreError
from decant.index.ingest import index_paths
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 3 MB, where the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def text_of(number, edition):
    """Lines that all name their edition, one more or less than the edition before."""
    return f"document {number} edition {edition}\n" * (3 + edition % 3)


def fill(store, acknowledged):
    """Replace a few documents over and over until the disk refuses, noting each edition that was accepted."""
    for edition in range(1, 2_000):
        number = edition % 5
        store.replace([indexed(f"d{number}", text_of(number, edition) + "padding " * 4_000, ENCODER)])
        acknowledged[f"d{number}"] = edition


def texts_of(store):
    return {name: store.text(name) for name in store.documents()}


def test_a_disk_that_fills_up_during_small_commits_keeps_every_one_that_was_accepted(small_disk):
    acknowledged: dict[str, int] = {}
    with Store.open(small_disk / "s", encoder=ENCODER, create=True) as store:
        with pytest.raises(StoreError) as caught, store.writer():
            fill(store, acknowledged)
        assert "\n" not in str(caught.value) and "free some space" in str(caught.value)
        assert len(acknowledged) == 5, "the disk was full too early for the test to mean anything"
    expected = {name: text_of(int(name[1:]), edition) + "padding " * 4_000 for name, edition in acknowledged.items()}
    with Store.open(small_disk / "s", encoder=ENCODER, read_only=True) as store:
        assert texts_of(store) == expected
        assert len(store.snapshot()) == sum(state.n_chunks for state in store.documents().values())
        assert len(Searcher(store, ENCODER).search("document edition", mode="dense")) == 10
    grow(small_disk)
    with Store.open(small_disk / "s", encoder=ENCODER) as store:
        store.optimize()
        store.replace([indexed("after", "there is room again\n", ENCODER)])
        assert texts_of(store) == {**expected, "after": "there is room again\n"}


@pytest.mark.slow
def test_a_folder_that_fills_the_disk_is_refused_in_one_line_and_goes_on_where_there_is_room(small_disk, tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    random = Random(0)
    for number in range(16):
        words = " ".join(random.randbytes(40).hex() for _ in range(4_000))
        (source / f"{number:02}.txt").write_text(words, encoding="utf-8")
    how = {"chunk_tokens": 60, "batch_chunks": 150}
    with Store.open(small_disk / "s", encoder=ENCODER, create=True) as store:
        with pytest.raises(StoreError) as caught:
            index_paths(store, ENCODER, [source], **how)
        assert "\n" not in str(caught.value) and "free some space" in str(caught.value)
        stored = texts_of(store)
        assert all(text == (source / name).read_text() for name, text in by_file(stored).items())
        assert 0 < len(stored) < 16
    grow(small_disk)
    with Store.open(small_disk / "s", encoder=ENCODER) as store:
        assert index_paths(store, ENCODER, [source], **how).unchanged == len(stored)
        assert len(texts_of(store)) == 16


def grow(disk):
    """Make room: Lance compacts before it deletes what is old, so a full disk cannot be cleaned up from within."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)


def by_file(texts):
    return {name.rpartition("/")[2]: text for name, text in texts.items()}


def upserts_under_a_reader(root, count):
    """Replace documents one commit at a time while a reader looks; returns how often it looked, and what it saw."""
    seen: list[dict[str, str]] = []
    failures: list[Exception] = []
    ended = threading.Event()
    latest = [0] * 10

    def read():
        try:
            with Store.open(root, encoder=ENCODER, read_only=True) as store:
                while not ended.is_set():
                    check(store)
        except Exception as error:
            failures.append(error)

    def check(store):
        floor = list(latest)
        hits = Searcher(store, ENCODER).search("document edition", mode="dense", k=100)
        texts: dict[str, set[str]] = {}
        for hit in hits:
            texts.setdefault(hit.chunk.doc_id, set()).add(hit.chunk.text)
        for name, lines in texts.items():
            [line] = lines  # one edition of a document, or a commit was seen in half
            number, edition = int(name[1:]), int(line.split()[-1])
            assert sum(hit.chunk.doc_id == name for hit in hits) == 3 + edition % 3
            assert edition >= floor[number], "a commit that was acknowledged went missing"
        seen.append({name: next(iter(lines)) for name, lines in texts.items()})

    with Store.open(root, encoder=ENCODER, create=True) as store, store.writer():
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for edition in range(1, count + 1):
                number = edition % 10
                store.replace([indexed(f"d{number}", text_of(number, edition), ENCODER)])
                latest[number] = edition
        finally:
            ended.set()
            reader.join()
        assert not failures, failures
        assert texts_of(store) == {f"d{i}": text_of(i, edition) for i, edition in enumerate(latest) if edition}
    return seen


def test_a_reader_sees_whole_editions_and_none_older_than_what_was_acknowledged(tmp_path):
    seen = upserts_under_a_reader(tmp_path / "s", 60)
    assert len(seen) > 3 and len({str(one) for one in seen}) > 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_upserts_under_a_reader(tmp_path):
    seen = upserts_under_a_reader(tmp_path / "s", 10_000)
    assert len({str(one) for one in seen}) > 100
