"""Ingestion: idempotent, exact about what vanished, and undisturbed by files that cannot be read."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from decant.embedder.errors import InputError
from decant.index.errors import StoreDamaged, StoreLocked
from decant.index.ingest import IndexProgress, IndexReport, index_paths
from decant.index.store import Store
from decant.index.testing import HashEncoder


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    folder = tmp_path / "docs"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.txt").write_text("alpha text")
    (folder / "b.md").write_text("# Beta\n\nbeta text")
    (folder / "deep" / "c.py").write_text("def gamma():\n    return 3\n")
    (folder / "deep" / "er" / "d.html").write_text("<title>Delta</title><p>delta text</p>")
    (folder / "r.jsonl").write_text('{"_id": "x", "text": "first"}\n{"_id": "y", "text": "second"}\n')
    (folder / "picture.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store.open(tmp_path / "store", encoder=HashEncoder(), create=True) as opened:
        yield opened


def index(store: Store, *paths: Path, **options: int) -> IndexReport:
    return index_paths(store, HashEncoder(), paths, **options)


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.unchanged, report.removed


def content(store: Store) -> dict[str, tuple[str, list[tuple[int, int, str]]]]:
    return {
        name: (store.text(name), [(c.start_char, c.end_char, c.text) for c in store.chunks(name)])
        for name in store.documents()
    }


def reasons(report: IndexReport, folder: Path) -> dict[str, str]:
    return {failure.path.removeprefix(f"{folder}/"): failure.reason for failure in report.failed}


IDS = {"docs/a.txt", "docs/b.md", "docs/deep/c.py", "docs/deep/er/d.html", "docs/r.jsonl#x", "docs/r.jsonl#y"}


def test_a_folder_is_indexed_once(docs: Path, store: Store) -> None:
    report = index(store, docs)
    assert counts(report) == (6, 0, 0, 0)
    assert (report.failed, report.chunks > 5, report.tokens > 10) == ((), True, True)
    assert [entry.reason for entry in report.ignored] == ["not read: .png"]
    assert set(store.documents()) == IDS
    assert {state.media for state in store.documents().values()} == {"text", "markdown", "code:python", "html"}
    version = store.snapshot().version
    again = index(store, docs)
    assert (counts(again), again.chunks) == ((0, 0, 6, 0), 0)
    assert store.snapshot().version == version


def test_only_what_changed_is_encoded_again(docs: Path, store: Store) -> None:
    index(store, docs)
    (docs / "a.txt").write_text("alpha text, revised")
    (docs / "deep" / "c.py").unlink()
    (docs / "new.rst").write_text("New\n===\n\ntext")
    (docs / "r.jsonl").write_text('{"_id": "y", "text": "second"}\n{"_id": "z", "text": "third"}\n')
    report = index(store, docs)
    assert (counts(report), report.chunks) == ((2, 1, 3, 2), 3)
    assert store.text("docs/a.txt") == "alpha text, revised"
    assert set(store.documents()) == IDS - {"docs/deep/c.py", "docs/r.jsonl#x"} | {"docs/new.rst", "docs/r.jsonl#z"}


def test_other_chunk_settings_chunk_again(docs: Path, store: Store) -> None:
    (docs / "long.txt").write_text("some words. " * 100)
    index(store, docs, chunk_tokens=40)
    assert counts(index(store, docs, chunk_tokens=20)) == (0, 7, 0, 0)
    assert max(len(c.text.split()) for c in store.chunks("docs/long.txt")) <= 20


def test_the_result_does_not_depend_on_the_way_there(docs: Path, store: Store, tmp_path: Path) -> None:
    index(store, docs / "deep")
    index(store, docs / "a.txt")
    index(store, docs, batch_chunks=1)
    index(store, docs / "deep" / "er" / "d.html")
    with Store.open(tmp_path / "other", encoder=HashEncoder(), create=True) as other:
        index(other, docs / "deep", docs)
        assert {name.split("/", 1)[-1] for name in content(store)} >= {"a.txt", "b.md"}
        assert sorted(content(other).values()) == sorted(content(store).values())


# Roots


def test_equal_names_in_two_roots_are_two_documents(tmp_path: Path, store: Store) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "notes").mkdir(parents=True)
        (tmp_path / name / "notes" / "README.md").write_text(f"# {name}")
    assert counts(index(store, tmp_path / "one" / "notes")) == (1, 0, 0, 0)
    assert counts(index(store, tmp_path / "two" / "notes")) == (1, 0, 0, 0)
    assert set(store.documents()) == {"notes/README.md", "two/notes/README.md"}
    assert counts(index(store, tmp_path / "two" / "notes")) == (0, 0, 1, 0)


def test_what_vanished_from_one_root_leaves_the_others_alone(docs: Path, tmp_path: Path, store: Store) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "o.txt").write_text("other")
    index(store, docs, other)
    (docs / "a.txt").unlink()
    (other / "o.txt").unlink()
    assert counts(index(store, docs)) == (0, 0, 5, 1)
    assert "other/o.txt" in store.documents()
    assert counts(index(store, docs, other)) == (0, 0, 5, 1)


def test_a_part_of_a_root_speaks_for_that_part_only(docs: Path, store: Store) -> None:
    index(store, docs)
    (docs / "a.txt").unlink()
    (docs / "deep" / "c.py").unlink()
    (docs / "deep" / "new.txt").write_text("new")
    assert counts(index(store, docs / "deep")) == (1, 0, 1, 1)
    assert set(store.documents()) == IDS - {"docs/deep/c.py"} | {"docs/deep/new.txt"}
    assert counts(index(store, docs / "b.md")) == (0, 0, 1, 0)


def test_the_same_folder_however_it_is_spelled(docs: Path, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    index(store, docs)
    monkeypatch.chdir(docs / "deep")
    assert counts(index(store, Path(".."))) == (0, 0, 6, 0)
    assert counts(index(store, Path("."), Path("er"), docs)) == (0, 0, 6, 0)
    (docs.parent / "link").symlink_to(docs)
    assert counts(index(store, docs.parent / "link")) == (0, 0, 6, 0)


def test_a_folder_around_a_known_root_takes_it_along(docs: Path, store: Store, tmp_path: Path) -> None:
    index(store, docs / "deep")
    assert set(store.documents()) == {"deep/c.py", "deep/er/d.html"}
    (docs / "deep" / "c.py").unlink()
    assert counts(index(store, docs)) == (4, 0, 1, 1)
    names = set(store.documents())
    assert names == {"deep/er/d.html", "docs/a.txt", "docs/b.md", "docs/r.jsonl#x", "docs/r.jsonl#y"}


def test_store_and_documents_may_move_together(tmp_path: Path) -> None:
    (tmp_path / "here" / "docs").mkdir(parents=True)
    (tmp_path / "here" / "docs" / "a.txt").write_text("a")
    with Store.open(tmp_path / "here" / ".decant", encoder=HashEncoder(), create=True) as store:
        index(store, tmp_path / "here")
    (tmp_path / "here").rename(tmp_path / "there")
    with Store.open(tmp_path / "there" / ".decant", encoder=HashEncoder()) as store:
        assert counts(index(store, tmp_path / "there")) == (0, 0, 1, 0)


def test_a_missing_path_is_an_error_and_removes_nothing(docs: Path, store: Store) -> None:
    index(store, docs)
    docs.rename(docs.with_name("gone"))
    with pytest.raises(InputError, match="nothing can be read at .*docs"):
        index(store, docs)
    assert set(store.documents()) == IDS


def test_no_path_is_an_error(store: Store) -> None:
    with pytest.raises(InputError, match="name a folder or a file"):
        index(store)


def test_damaged_roots_are_not_overwritten(docs: Path, store: Store) -> None:
    (store.root / "roots.json").write_text('{"roots": [')
    with pytest.raises(StoreDamaged, match=r"roots\.json cannot be read"):
        index(store, docs)
    assert (store.root / "roots.json").read_text() == '{"roots": ['


# What cannot be read


def test_failures_are_listed_and_the_rest_is_indexed(docs: Path, store: Store) -> None:
    (docs / "empty.txt").write_bytes(b"")
    (docs / "latin.txt").write_bytes(b"caf\xe9")
    (docs / "binary.md").write_bytes(b"\x00\x01")
    (docs / "broken.pdf").write_bytes(b"%PDF-1.4 nothing")
    (docs / "broken.docx").write_bytes(b"PK nothing")
    (docs / "mixed.jsonl").write_text('{"text": "good"}\n{"text": 3}\n')
    (docs / "dangling.txt").symlink_to(docs / "nowhere.txt")
    (docs / "loop.txt").symlink_to(docs / "loop.txt")
    (docs / "around").symlink_to(docs)
    os.mkfifo(docs / "pipe.txt")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(docs / "socket.txt"))
        report = index(store, docs)
    assert reasons(report, docs) == {
        "binary.md": "binary content (a zero byte at byte 0)",
        "broken.docx": "a broken .docx: File is not a zip file",
        "broken.pdf": "a broken PDF: Failed to load document (PDFium: Data format error).",
        "dangling.txt": "a link to nothing",
        "empty.txt": "empty",
        "latin.txt": "not UTF-8 at byte 3: convert it, e.g. with iconv -t UTF-8",
        "loop.txt": "a symbolic link that leads to itself",
        "mixed.jsonl:2": "no field 'text' with a string",
        "pipe.txt": "not a regular file (a pipe, socket or device)",
        "socket.txt": "not a regular file (a pipe, socket or device)",
    }
    assert [e.reason for e in report.ignored if e.path.endswith("around")] == ["a link to a folder"]
    assert set(store.documents()) == IDS | {"docs/mixed.jsonl#1"}


def test_an_earlier_version_of_what_fails_now_stays(docs: Path, store: Store) -> None:
    index(store, docs)
    (docs / "a.txt").write_bytes(b"\xff\xff")
    (docs / "r.jsonl").write_text('{"_id": "y", "text": "second"}\nhalf a rec')
    report = index(store, docs)
    assert (counts(report), len(report.failed)) == ((0, 0, 4, 0), 2)
    assert store.text("docs/a.txt") == "alpha text"
    assert store.text("docs/r.jsonl#x") == "first"
    (docs / "r.jsonl").write_text('{"_id": "y", "text": "second"}\n')
    (docs / "a.txt").unlink()
    assert counts(index(store, docs)) == (0, 0, 4, 2)


@pytest.mark.skipif(os.geteuid() != 0, reason="gives up root's rights, and needs them first")
def test_what_may_not_be_read_fails_and_stays(docs: Path, store: Store) -> None:
    index(store, docs)
    (docs / "a.txt").chmod(0)
    (docs / "deep").chmod(0)
    for folder in [docs, *docs.parents]:
        if folder.stat().st_uid == 0 and folder.name.startswith(("pytest", "popen-", "docs", "test_")):
            folder.chmod(0o755)
    for path in [store.root, *store.root.rglob("*")]:
        os.chown(path, 65534, -1)
    os.seteuid(65534)
    try:
        report = index(store, docs)
    finally:
        os.seteuid(0)
    assert reasons(report, docs) == {"a.txt": "permission denied", "deep": "permission denied"}
    assert set(store.documents()) == IDS


def test_a_file_given_by_name_must_be_one_that_is_read(docs: Path, store: Store) -> None:
    assert reasons(index(store, docs / "picture.png"), docs) == {"picture.png": "a file type that is not read"}


def test_two_documents_with_one_id_are_told_apart(docs: Path, store: Store) -> None:
    (docs / "r.jsonl#k.md").write_text("a file whose name looks like a record's id")
    (docs / "r.jsonl").write_text('{"_id": "k.md", "text": "the record"}\n')
    report = index(store, docs)
    assert [f.reason for f in report.failed] == ["its id 'docs/r.jsonl#k.md' is taken by another document"]


# What is left out


def test_junk_is_left_out(docs: Path, store: Store) -> None:
    for name in (".git/x.txt", "__pycache__/x.py", "node_modules/x.js", ".hidden.txt", "venv/lib/x.py", "cache/x.txt"):
        (docs / name).parent.mkdir(parents=True, exist_ok=True)
        (docs / name).write_text("junk")
    (docs / "venv" / "pyvenv.cfg").write_text("")
    (docs / "cache" / "CACHEDIR.TAG").write_text("")
    index(store, docs)
    assert set(store.documents()) == IDS


def test_a_store_inside_its_documents_is_left_out(docs: Path) -> None:
    with Store.open(docs / "index", encoder=HashEncoder(), create=True) as store:
        (docs / "index" / "note.txt").write_text("beside the tables")
        index(store, docs)
        assert set(store.documents()) == IDS


# The run


def test_progress_reaches_the_total(docs: Path, store: Store) -> None:
    steps: list[IndexProgress] = []
    index_paths(store, HashEncoder(), [docs], batch_chunks=2, progress=steps.append)
    assert steps[-1].files_done == steps[-1].files_total == 5
    assert steps[-1].bytes_done == steps[-1].bytes_total
    assert [s.bytes_done for s in steps] == sorted(s.bytes_done for s in steps)
    assert [s.chunks for s in steps] == sorted(s.chunks for s in steps)


def test_a_run_that_breaks_keeps_whole_batches_and_the_next_completes_it(docs: Path, store: Store) -> None:
    for i in range(20):
        (docs / f"n{i:02}.txt").write_text(f"number {i} " * 30)

    class Breaking(HashEncoder):
        def encode(self, texts: list[str], **options: object) -> object:
            if any("number 13 " in text for text in texts):
                raise KeyboardInterrupt
            return super().encode(texts, **options)

    with pytest.raises(KeyboardInterrupt):
        index_paths(store, Breaking(), [docs], batch_chunks=4)
    done = set(store.documents())
    assert 5 < len(done) < 26
    report = index(store, docs)
    assert counts(report) == (26 - len(done), 0, len(done), 0)


def test_two_writers_do_not_meet(docs: Path, store: Store, tmp_path: Path) -> None:
    with (
        Store.open(store.root, encoder=HashEncoder()) as other,
        other.writer(),
        pytest.raises(StoreLocked),
    ):
        index(store, docs)


def test_records_stream_in_bounded_batches(tmp_path: Path, store: Store) -> None:
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps({"_id": i, "text": f"record {i}"}) + "\n" for i in range(300)))
    steps: list[int] = []
    report = index_paths(store, HashEncoder(), [file], batch_chunks=50, progress=lambda p: steps.append(p.chunks))
    assert (report.added, report.chunks) == (300, 300)
    assert sorted(set(steps)) == [50, 100, 150, 200, 250, 300]
    assert len(store.documents()) == 300
