"""Creating, refusing and migrating a store's folder."""

import json
import os
import shutil
import subprocess

import lancedb
import pytest
from lancedb.index import FTS

from decant.embedder import InputError
from decant.index import Searcher, Store
from decant.index.errors import (
    StoreDamaged,
    StoreError,
    StoreMismatch,
    StoreNotFound,
    StoreReadOnly,
    StoreVersionError,
)
from decant.index.meta import StoreMeta, read_meta, write_meta
from decant.index.migrations import BACKUPS, migrate
from decant.index.place import place_of
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()


def make(path, documents=3):
    with Store.open(path, encoder=ENCODER, create=True) as store:
        store.replace([indexed(f"d{i}", f"text {i}\nmore of {i}\n", ENCODER) for i in range(documents)])
        return store.digest()


def edit_meta(root, **changes):
    raw = json.loads((root / "store.json").read_text())
    (root / "store.json").write_text(json.dumps({**raw, **changes}))


def one_line(caught, *parts):
    text = str(caught.value)
    assert "\n" not in text
    for part in parts:
        assert part in text


def test_opening_nothing_says_how_to_make_it(tmp_path):
    with pytest.raises(StoreNotFound) as caught:
        Store.open(tmp_path / "none")
    one_line(caught, "no store", "decant index")
    assert not (tmp_path / "none").exists()


def test_a_file_is_not_a_store(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreNotFound) as caught:
        Store.open(tmp_path / "file")
    one_line(caught, "is a file")
    with pytest.raises(StoreReadOnly):
        Store.open(tmp_path / "file" / "deeper", encoder=ENCODER, create=True)


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("x")
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path, encoder=ENCODER, create=True)
    one_line(caught, "other files")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_creating_needs_an_encoder(tmp_path):
    with pytest.raises(StoreError) as caught:
        Store.open(tmp_path / "s", create=True)
    one_line(caught, "encoder")


def test_opening_again_with_create_keeps_the_content(tmp_path):
    digest = make(tmp_path / "s")
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        assert store.digest() == digest


def test_an_interrupted_creation_is_begun_again(tmp_path):
    make(tmp_path / "s")
    (tmp_path / "s" / "store.json").unlink()
    with pytest.raises(StoreNotFound):
        Store.open(tmp_path / "s")
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        assert dict(store.documents()) == {}


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_creation_that_crashed_as_it_wrote_its_description_is_made_again(tmp_path, monkeypatch, step):
    def crash(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(os, step, crash)
        with pytest.raises(KeyboardInterrupt):
            Store.open(tmp_path / "s", encoder=HashEncoder(), create=True)
    assert (tmp_path / "s" / "store.json.new").exists()
    with Store.open(tmp_path / "s", encoder=HashEncoder(), create=True) as made:
        assert made.documents() == {}
    assert not (tmp_path / "s" / "store.json.new").exists()


@pytest.mark.parametrize("create", [False, True])
def test_another_encoder_is_refused_by_name(tmp_path, create):
    digest = make(tmp_path / "s")
    with pytest.raises(StoreMismatch) as caught:
        Store.open(tmp_path / "s", encoder=HashEncoder(name="other"), create=create)
    one_line(caught, ENCODER.fingerprint, "other-16")
    with Store.open(tmp_path / "s", encoder=ENCODER) as store:
        assert store.digest() == digest


def test_a_newer_schema_is_refused(tmp_path):
    make(tmp_path / "s")
    edit_meta(tmp_path / "s", schema=99, something_new=1)
    with pytest.raises(StoreVersionError) as caught:
        Store.open(tmp_path / "s", encoder=ENCODER)
    one_line(caught, "99", "upgrade")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": "other", "schema": 1}', '{"format": "decant-store"}'])
def test_damaged_metadata_is_said_to_be(tmp_path, content):
    make(tmp_path / "s")
    (tmp_path / "s" / "store.json").write_text(content)
    with pytest.raises(StoreDamaged) as caught:
        Store.open(tmp_path / "s", encoder=ENCODER, create=True)
    one_line(caught, "store.json", "backup")


@pytest.mark.parametrize(
    "changes",
    [
        {"dimension": "wide"},
        {"dimension": None},
        {"dimension": 10**12},
        {"dimension": 0},
        {"dimension": True},
        {"terms": -1},
        {"router": 0.5},
        {"schema": 1.5},
        {"fingerprint": 7},
        {"model_path": None},
    ],
    ids=str,
)
def test_a_fact_edited_into_what_it_cannot_be_is_named(tmp_path, changes):
    make(tmp_path / "s")
    edit_meta(tmp_path / "s", **changes)
    for options in ({}, {"encoder": ENCODER, "create": True}):
        with pytest.raises(StoreDamaged) as caught:
            Store.open(tmp_path / "s", **options)
        one_line(caught, "store.json", f"{next(iter(changes))} is", "backup")


@pytest.mark.parametrize("changes", [{"dimension": 8}, {"terms": 100}, {"router": 4}])
def test_a_description_of_other_tables_is_refused(tmp_path, changes):
    make(tmp_path / "s")
    edit_meta(tmp_path / "s", **changes)
    for options in ({}, {"read_only": True}, {"encoder": ENCODER, "create": True}):
        with pytest.raises(StoreDamaged) as caught:
            Store.open(tmp_path / "s", **options)
        one_line(caught, "store.json does not describe the tables", "backup")


def test_lost_tables_are_said_to_be(tmp_path):
    make(tmp_path / "s")
    shutil.rmtree(tmp_path / "s" / "lance")
    with pytest.raises(StoreDamaged) as caught:
        Store.open(tmp_path / "s", encoder=ENCODER)
    one_line(caught, "lost its tables")


@pytest.mark.parametrize("folder", ["_versions", "data"])
def test_a_truncated_lance_file_is_a_one_line_error(tmp_path, folder):
    make(tmp_path / "s")
    for file in (tmp_path / "s" / "lance" / "chunks.lance" / folder).iterdir():
        file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(StoreDamaged) as caught, Store.open(tmp_path / "s", encoder=ENCODER) as store:
        store.text("d0")
    one_line(caught, str(tmp_path / "s"), "backup")


# A store of schema 0: what migration 0 must turn into schema 1 is a marker file here.
def _first(root):
    (root / "migrated").write_text("0 to 1")


def test_an_older_schema_is_migrated_step_by_step_with_a_backup(tmp_path):
    root = tmp_path / "s"
    digest = make(root)
    meta = StoreMeta(0, ENCODER.fingerprint, 16)
    write_meta(place_of(root), meta)
    steps = []
    migrations = {0: lambda path: steps.append(0), 1: lambda path: steps.append(1)}
    assert migrate(root, meta, target=2, tables="lance", migrations=migrations).schema == 2
    assert steps == [0, 1]
    assert read_meta(place_of(root), newest=2).schema == 2
    backup = root / BACKUPS / "schema-0"
    with pytest.raises(StoreVersionError):
        Store.open(backup)  # still schema 0: no migration leads on from there here
    edit_meta(backup, schema=1)
    with Store.open(backup, encoder=ENCODER) as store:
        assert store.digest() == digest


def test_a_migration_that_was_cut_short_runs_again(tmp_path):
    root = tmp_path / "s"
    make(root)
    meta = StoreMeta(0, ENCODER.fingerprint, 16)
    write_meta(place_of(root), meta)

    def dies(path):
        _first(path)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        migrate(root, meta, target=1, tables="lance", migrations={0: dies})
    assert read_meta(place_of(root), newest=1).schema == 0
    migrate(root, read_meta(place_of(root), newest=1), target=1, tables="lance", migrations={0: _first})
    assert read_meta(place_of(root), newest=1).schema == 1


def test_a_schema_without_a_way_forward_is_refused_unchanged(tmp_path):
    root = tmp_path / "s"
    make(root)
    edit_meta(root, schema=0)
    with pytest.raises(StoreVersionError) as caught:
        Store.open(root, encoder=ENCODER)
    one_line(caught, "too old")
    with pytest.raises(StoreVersionError) as caught:
        Store.open(root, read_only=True)
    one_line(caught, "older schema")
    assert not (root / BACKUPS).exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB, where the test may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_loses_nothing_that_was_stored(small_disk):
    root = small_disk / "s"
    digest = make(root)
    filler = indexed("big", "word " * 3_000_000, ENCODER)
    with Store.open(root, encoder=ENCODER) as store:
        with pytest.raises(StoreError) as caught:
            store.replace([filler])
        one_line(caught, "full", "free some space")
        assert store.digest() == digest
        with pytest.raises(StoreError) as caught, store.writer():
            store.replace([indexed(f"e{i}", "more lines\n" * 9_000, ENCODER) for i in range(2)])
            store.build_accelerator("hnsw")
        one_line(caught, "full", "free some space")
        assert store.info()["dense"]["search"] == "exact"
    with Store.open(root, encoder=ENCODER) as store:
        store.delete(["e0", "e1"])
        store.optimize()
        store.replace([indexed("d1", "there is room again\n", ENCODER)])
        assert store.text("d1") == "there is room again\n"


def test_a_read_only_folder_can_be_read_and_not_written(small_disk):
    root = small_disk / "s"
    digest = make(root)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with Store.open(root, encoder=ENCODER) as store:
        assert store.digest() == digest
        with pytest.raises(StoreReadOnly) as caught:
            store.replace([indexed("x", "y\n", ENCODER)])
        one_line(caught, "writable")
    with pytest.raises(StoreReadOnly):
        Store.open(small_disk / "new", encoder=ENCODER, create=True)


def test_a_store_of_schema_1_is_migrated_and_found_by_its_titles(tmp_path):
    root = tmp_path / "s"
    with Store.open(root, encoder=ENCODER, create=True) as store:
        store.replace(
            [indexed("a", "of the fox\n", ENCODER, title="The Zebra's tale"), indexed("b", "a hare\n", ENCODER)]
        )
        digest = store.digest()
    table = lancedb.connect(root / "lance").open_table("chunks")
    table.drop_index("words_idx")
    table.drop_columns(["words"])
    table.create_index("text", config=FTS())
    edit_meta(root, schema=1)
    with pytest.raises(StoreVersionError):
        Store.open(root, read_only=True)
    with Store.open(root, encoder=ENCODER) as store:
        assert store.digest() == digest
        assert [hit.chunk.doc_id for hit in Searcher(store, ENCODER).search("zebras", mode="lexical")] == ["a"]
    assert {index.name for index in lancedb.connect(root / "lance").open_table("chunks").list_indices()} == {
        "words_idx"
    }
    assert (root / "backups" / "schema-1" / "store.json").exists()


def test_a_new_store_holds_what_it_is_asked_for(tmp_path):
    encoder = HashEncoder(outputs=("dense", "sparse", "router"))
    with Store.open(tmp_path / "all", encoder=encoder, create=True) as store:
        assert store.meta.layout.outputs == ("dense", "sparse", "router")
    encoder.indexed_outputs = ("dense", "router")
    with Store.open(tmp_path / "wanted", encoder=encoder, create=True) as store:
        assert store.meta.layout.outputs == ("dense", "router")
    with Store.open(tmp_path / "asked", encoder=encoder, create=True, outputs=("sparse", "dense")) as store:
        assert store.meta.layout.outputs == ("dense", "sparse")
    with Store.open(tmp_path / "asked", encoder=encoder, create=True) as store:
        assert store.meta.layout.outputs == ("dense", "sparse")


def test_a_store_that_cannot_hold_what_is_asked_for_says_so(tmp_path):
    encoder = HashEncoder(outputs=("dense", "sparse"))
    for outputs, told in (
        (("dense", "colbert"), "makes dense, sparse vectors, not colbert"),
        (("sparse",), "name dense"),
    ):
        with pytest.raises(InputError, match=told):
            Store.open(tmp_path / "none", encoder=encoder, create=True, outputs=outputs)
    Store.open(tmp_path / "dense", encoder=encoder, create=True, outputs=("dense",)).close()
    with pytest.raises(InputError, match="was made without sparse vectors"):
        Store.open(tmp_path / "dense", encoder=encoder, create=True, outputs=("dense", "sparse"))
