"""Each mistake is one line that says what to do, the right exit code, and nothing lost."""

from __future__ import annotations

import json
import os
import shutil
import socket
from pathlib import Path

import pytest

from decant.embedder import Encoder
from decant.index import Store

USAGE = [
    (("frobnicate",), "frobnicate"),
    (("search",), "QUERY"),
    (("search", "x", "-k", "0"), "-k"),
    (("search", "x", "--mode", "telepathy"), "'dense', 'lexical', 'hybrid'"),
    (("index",), "PATH"),
    (("index", "docs", "--chunk-tokens", "none"), "--chunk-tokens"),
    (("eval", "x", "--modes", "dense,telepathy"), "telepathy"),
]


@pytest.mark.parametrize(("args", "message"), USAGE, ids=lambda value: None)
def test_a_wrong_command_line_exits_with_2(decant, args, message):
    done = decant(*args)
    assert done.code == 2
    assert message in done.error


MISTAKES = [
    (("search", "x", "--store", "gone"), "there is no store at gone: make one with decant index"),
    (("info",), "there is no store at .decant"),
    (("search", ""), "the query is empty"),
    (("search", " \n"), "the query is empty"),
    (("search", "x", "--filter", "colour = 'red'"), "no field 'colour'"),
    (("search", "x", "--filter", "path LIKE"), "filter: expected"),
    (("search", "x", "-k", "1000000"), "1 to 10,000"),
    (("index", "gone"), "nothing is at gone"),
    (("index", "docs", "--overlap", "256"), "overlap"),
    (("index", "docs", "--model", "gone"), "no model folder at gone"),
    (("index", "docs", "--model", "no-such-owner/no-such-model"), "unknown model no-such-owner/no-such-model"),
    (("verify", "gone"), "no model folder at gone"),
    (("convert", "gone", "out"), "no model folder at gone"),
    (("eval", "gone"), "nothing is at gone"),
    (("eval", "docs"), "not a BEIR folder"),
    (("index", "docs", "--device", "cuda:99"), "cuda:99"),
]


@pytest.mark.parametrize(("args", "message"), MISTAKES, ids=lambda value: None)
def test_a_mistake_exits_with_1(decant, docs, args, message):
    if args[0] == "search" and "--store" not in args:
        decant("index", docs)
    done = decant(*args)
    assert done.code == 1
    assert message in done.error


def test_a_kernel_asked_for_by_name_that_cannot_run_is_one_line(decant, monkeypatch):
    monkeypatch.setenv("DECANT_KERNELS", "attention=nonsense")
    done = decant("embed", stdin="a text\n")
    assert done.code == 1
    assert "nonsense" in done.error and "fault in Decant" not in done.error


def test_a_mistake_in_the_path_leaves_no_store(decant, tmp_path):
    decant("index", "gone")
    assert list(tmp_path.iterdir()) == []


def test_unreadable_files_are_listed_and_the_rest_is_indexed(decant, docs):
    (docs / "empty.txt").touch()
    (docs / "binary.txt").write_bytes(bytes(range(256)))
    (docs / "latin.txt").write_bytes(b"caf\xe9")
    (docs / "broken.pdf").write_bytes(b"%PDF-1.7\nnot a pdf")
    (docs / "broken.docx").write_bytes(b"PK\3\4 no")
    done = decant("index", docs, "--json")
    assert done.code == 3
    assert done.json["added"] == 3
    failed = {Path(f["path"]).name: f["reason"] for f in done.json["failed"]}
    assert set(failed) == {"empty.txt", "binary.txt", "latin.txt", "broken.pdf", "broken.docx"}
    assert all(failed.values())
    shown = decant("index", docs)
    assert shown.code == 3
    assert all(name in shown.err for name in failed)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_a_file_without_permission_is_listed(decant, docs):
    (docs / "secret.txt").write_text("secret", "utf-8")
    (docs / "secret.txt").chmod(0)
    done = decant("index", docs, "--json")
    assert (done.code, done.json["added"]) == (3, 3)


def test_a_store_of_another_model_is_refused(decant, docs, tmp_path, tiny_model):
    decant("index", docs)
    other = tmp_path / "other"
    decant("convert", tiny_model, other, "--pooling", "last")
    for command in (("search", "water"), ("index", docs)):
        done = decant(*command, "--model", other)
        assert done.code == 1
        assert "use that model, or index into another folder with --store" in done.error
    assert decant("info", "--json").json["documents"] == 3


def test_a_store_of_a_newer_schema_is_refused(decant, docs, tmp_path):
    decant("index", docs)
    meta = tmp_path / ".decant" / "store.json"
    meta.write_text(json.dumps(json.loads(meta.read_text()) | {"schema": 99}))
    done = decant("search", "water")
    assert done.code == 1
    assert "schema 99" in done.error
    assert "upgrade decant" in done.error


def test_a_damaged_store_is_named(decant, docs, tmp_path):
    decant("index", docs)
    shutil.rmtree(tmp_path / ".decant" / "lance")
    done = decant("search", "water")
    assert done.code == 1
    assert "lost its tables" in done.error


def test_a_second_writer_is_told_who_writes(decant, docs, tiny_model):
    decant("index", docs)
    with Store.open(".decant", encoder=Encoder.load(tiny_model)) as store, store.writer():
        done = decant("index", docs)
        found = decant("search", "water", "--json")
    assert done.code == 1
    assert f"is being written by process {os.getpid()}" in done.error
    assert found.code == 0


def test_a_model_without_its_weights_is_refused(decant, docs, tiny_model, tmp_path):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "model.safetensors").unlink()
    done = decant("index", docs, "--model", broken)
    assert done.code == 1
    assert "broken" in done.error
    assert not (tmp_path / ".decant").exists()


def test_a_model_with_half_its_weights_is_refused(decant, docs, tiny_model, tmp_path):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    save_file({name: w for name, w in weights.items() if "layers.1" not in name}, broken / "model.safetensors")
    done = decant("verify", broken)
    assert done.code == 1
    assert "lacks" in done.error


def test_a_fault_of_ours_is_told_apart_from_the_users(decant, docs, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("two\nlines")

    decant("index", docs)
    monkeypatch.setattr("decant.index.searcher.Searcher.search", fail)
    done = decant("search", "water")
    assert done.code == 70
    assert done.error == "a fault in Decant: RuntimeError: two lines (--debug shows where)"
    assert "Traceback" in decant("search", "water", "--debug").err


def test_a_full_disk_is_said(decant, docs, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("decant.index.store.Store.replace", fail)
    done = decant("index", docs)
    assert done.code == 1
    assert "the disk is full" in done.error


@pytest.mark.parametrize("flag", ["--http-port", "--grpc-port"])
def test_a_port_in_use_is_said_before_a_model_is_loaded(decant, flag: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        rest = {"--http-port": "0", "--grpc-port": "0", flag: port}
        done = decant(
            "serve", "--host", "127.0.0.1", *(part for pair in rest.items() for part in pair), "--model", "gone"
        )
    assert done.code == 1
    assert "cannot listen on 127.0.0.1" in done.error and f"choose another {flag}" in done.error
