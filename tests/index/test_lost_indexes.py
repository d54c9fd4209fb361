"""Lance's own indexes hold nothing that the rows do not: a reader says which is lost, a writer makes it anew."""

import shutil

import numpy as np
import pytest

from decant.index import Searcher, Store
from decant.index.errors import StoreDamaged
from decant.index.ingest import index_paths
from decant.index.testing import HashEncoder, indexed

ENCODER = HashEncoder()
COLUMNS = ["words", "doc_id", "vector"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with all three indexes, and its content."""
    folder = tmp_path_factory.mktemp("whole") / "s"
    with pytest.MonkeyPatch.context() as patch, Store.open(folder, encoder=ENCODER, create=True) as store:
        patch.setattr("decant.index.identity.LEAST_ROWS", 50)
        store.replace([indexed(f"d{i}", f"red fox number {i}\n", ENCODER) for i in range(300)])
        store.optimize()
        store.build_accelerator("lance-hnsw")
        return folder, store.digest()


def files_of(store, column):
    """The folder of the index over a column."""
    [index] = [index for index in store.table.list_indices() if index.columns == [column]]
    return store.root / "lance" / "chunks.lance" / "_indices" / str(index.index_uuid)


def cut(folder):
    for file in folder.iterdir():
        file.write_bytes(file.read_bytes()[:50])


@pytest.mark.parametrize("damage", [shutil.rmtree, cut], ids=["lost", "cut short"])
@pytest.mark.parametrize("lost", [["words"], ["doc_id"], ["vector"], COLUMNS], ids=", ".join)
def test_a_reader_names_the_index_it_lacks_and_the_next_write_makes_it_anew(whole, tmp_path, lost, damage):
    shutil.copytree(whole[0], tmp_path / "s")
    reader = Store.open(tmp_path / "s", encoder=ENCODER, read_only=True)
    for column in lost:
        damage(files_of(reader, column))
    if len(lost) == 3 and damage is shutil.rmtree:
        (tmp_path / "s" / "lance" / "chunks.lance" / "_indices").rmdir()
    searcher = Searcher(reader, ENCODER)
    reads = {
        "words": lambda: searcher.search("fox number 7", mode="lexical", k=1)[0].chunk.doc_id,
        "doc_id": lambda: reader.document("d7").doc_id,
        "vector": lambda: searcher.search("red fox number 7", mode="dense", k=1)[0].chunk.doc_id,
    }
    for column, read in reads.items():
        if column in lost:
            with pytest.raises(StoreDamaged, match=f"cannot read its index over {', '.join(lost)}: run decant index"):
                read()
        else:
            assert read() == "d7"
    assert reader.info()["unreadable_indexes"].startswith(", ".join(lost))
    with Store.open(tmp_path / "s", encoder=ENCODER) as store:
        store.delete(["d8"])
        store.replace([indexed("d8", "red fox number 8\n", ENCODER)])
        assert {index.columns[0]: index.index_type for index in store.table.list_indices()} == {
            "words": "FTS",
            "doc_id": "BTree",
            "vector": "IvfHnswSq",
        }
        store.optimize()
    assert [read() for read in reads.values()] == ["d7"] * 3
    assert reader.digest() == whole[1] and "unreadable_indexes" not in reader.info()


def test_no_file_of_an_index_goes_unmissed(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "s")
    files = [(column, file) for column in COLUMNS for file in files_of(Store.open(tmp_path / "s"), column).iterdir()]
    assert len(files) >= 8
    for column, file in files:
        held = file.read_bytes()
        file.unlink()
        assert Store.open(tmp_path / "s").snapshot().unreadable_indexes() == [column], file.name
        file.write_bytes(held)


def test_an_index_run_that_finds_nothing_new_makes_lost_indexes_anew(tmp_path):
    (tmp_path / "a.txt").write_text("red fox\n")
    with Store.open(tmp_path / "s", encoder=ENCODER, create=True) as store:
        index_paths(store, ENCODER, [tmp_path / "a.txt"])
    shutil.rmtree(tmp_path / "s" / "lance" / "chunks.lance" / "_indices")
    with Store.open(tmp_path / "s", encoder=ENCODER) as store:
        assert index_paths(store, ENCODER, [tmp_path / "a.txt"]).added == 0
        assert len(Searcher(store, ENCODER).search("foxes", mode="lexical")) == 1


def test_an_index_that_goes_while_a_writer_is_open_costs_it_one_write(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "s")
    with Store.open(tmp_path / "s", encoder=ENCODER) as store:
        with store.writer():
            shutil.rmtree(files_of(store, "doc_id"))
        # Lance may still hold what it needs in memory.
        for number in range(2):
            try:
                store.replace([indexed("d7", f"blue whale {number}\n", ENCODER)])
            except StoreDamaged:
                assert number == 0
        assert store.text("d7") == "blue whale 1\n"
        assert len(store.documents()) == 300 and np.isfinite(store.snapshot().vectors(np.arange(300))).all()
