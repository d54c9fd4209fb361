"""`decant embed`: every format, in order, whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from decant.embedder import Encoder
from decant.service.cli import vectors
from decant.service.cli.texts import read_items

TEXTS = ["Rivers carry water.", "short", "The committee met on Tuesday, for three hours, and decided nothing."]


@pytest.fixture
def expected(tiny_model):
    return Encoder.load(tiny_model).encode(TEXTS).dense


def test_lines_become_json_lines_in_order(decant, expected):
    done = decant("embed", stdin="\n".join(TEXTS))
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [row["id"] for row in rows] == ["1", "2", "3"]
    assert np.array_equal(np.array([row["vector"] for row in rows], np.float32), expected)


@pytest.mark.parametrize("suffix", [".npy", ".parquet", ".jsonl"])
def test_files_hold_the_same_vectors(decant, tmp_path, expected, suffix):
    Path("in.txt").write_text("\n".join(TEXTS) + "\n", "utf-8")
    summary = decant("embed", "in.txt", "-o", f"out{suffix}", "--json")
    assert summary.code == 0
    assert (summary.json["texts"], summary.json["dimensions"], summary.json["truncated"]) == (3, 32, 0)
    assert np.array_equal(_read(tmp_path / f"out{suffix}"), expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.txt", f"out{suffix}"]


def _read(path: Path) -> np.ndarray:
    if path.suffix == ".npy":
        return np.load(path)
    if path.suffix == ".parquet":
        return np.array(pq.read_table(path)["vector"].to_pylist(), np.float32)
    return np.array([json.loads(line)["vector"] for line in path.read_text().splitlines()], np.float32)


def test_parquet_keeps_ids_tokens_and_cuts(decant):
    records = [{"_id": "a", "body": "short"}, {"_id": "b", "body": "word " * 200}]
    Path("in.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    done = decant("embed", "in.jsonl", "--field", "body", "-o", "out.parquet")
    assert "1 texts were cut to 128 tokens" in done.err
    rows = pq.read_table("out.parquet").to_pylist()
    assert [(row["id"], row["truncated"]) for row in rows] == [("a", False), ("b", True)]
    assert rows[1]["tokens"] == 128


def test_numpy_header_is_right_over_many_parts(tmp_path, tiny_model):
    part = Encoder.load(tiny_model).encode(TEXTS)
    with vectors.writer_to(tmp_path / "v.npy") as writer:
        for _ in range(40):
            writer.write(["x"] * 3, part)
    loaded = np.load(tmp_path / "v.npy")
    assert loaded.shape == (120, 32)
    assert np.array_equal(loaded[117:], part.dense)


def test_texts_are_read_as_they_are_asked_for(tmp_path):
    (tmp_path / "in.txt").write_bytes(b"good\n\xff\n")
    items = read_items([str(tmp_path / "in.txt")], "text", jsonl=None)
    assert next(items).text == "good"


def test_a_byte_order_mark_and_windows_line_ends_are_no_text(decant):
    Path("in.txt").write_bytes(b"\xef\xbb\xbfshort\r\n")
    Path("plain.txt").write_bytes(b"short\n")
    marked, plain = (decant("embed", name).out for name in ("in.txt", "plain.txt"))
    assert marked == plain


BAD = [
    (("embed",), b"", "there is nothing to embed"),
    (("embed",), b"a\n\n", "standard input, line 2 holds no text"),
    (("embed",), b"a\n\xff\n", "standard input, line 2 is not UTF-8"),
    (("embed",), b"a\0b\n", "standard input, line 1 is binary"),
    (("embed", "gone.txt"), b"", "cannot read gone.txt: no such file or directory"),
    (("embed", "."), b"", "cannot read .: is a directory"),
    (("embed", "--input-format", "jsonl"), b"{", "standard input, line 1 is not JSON"),
    (("embed", "--input-format", "jsonl"), b'{"text": 1}', "name the right field with --field"),
    (("embed", "--truncate", "error"), b"word " * 200, "the model takes 128: shorten it"),
    (("embed", "--kind", "poem"), b"a", "unknown kind 'poem'"),
    (("embed", "--dimensions", "7"), b"a", "7 dimensions"),
    (("embed", "--instruction", "find"), b"a", "takes no instruction"),
    (("embed", "-o", "v.csv"), b"a", "end its name in .parquet, .npy, .jsonl"),
    (("embed", "-o", "gone/v.npy"), b"a", "cannot write gone/v.npy: no such file or directory"),
]


@pytest.mark.parametrize(("args", "stdin", "message"), BAD, ids=lambda value: None)
def test_bad_input_is_one_line(decant, args, stdin, message):
    done = decant(*args, stdin=stdin)
    assert done.code == 1
    assert message in done.error


def test_a_failed_run_leaves_the_old_file_and_nothing_else(decant, tmp_path):
    (tmp_path / "v.npy").write_bytes(b"old")
    assert decant("embed", "-o", "v.npy", stdin="good\n\nbad\n").code == 1
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("v.npy", b"old")]


def test_a_summary_needs_somewhere_to_put_the_vectors(decant):
    done = decant("embed", "--json", stdin="a")
    assert done.code == 2
    assert "--out" in done.error
