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


@pytest.fixture
def sparse_model(decant, tiny_model, tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(tiny_model)
    config.is_causal = True
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "lm")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "lm")
    done = decant("convert", "lm", "sparse", "--sparse", "--top-k", "6", "--max-tokens", "64")
    assert done.code == 0, done.err
    assert "32 dimensions" in done.err and "terms" in done.err
    return tmp_path / "sparse"


def test_sparse_vectors_in_lines_and_files(decant, sparse_model):
    rows = Encoder.load(sparse_model).encode(TEXTS, outputs=["sparse"]).sparse
    done = decant("embed", "--model", sparse_model, "--output", "sparse", "--output", "dense", stdin="\n".join(TEXTS))
    for i, line in enumerate(done.out.splitlines()):
        row = json.loads(line)
        assert len(row["vector"]) == 32 and row["sparse"]["terms"] == rows[[i]].indices.tolist()
        assert np.array_equal(np.float32(row["sparse"]["weights"]), rows[[i]].data)
    written = decant("embed", "--model", sparse_model, "--output", "sparse", "-o", "o.parquet", stdin="\n".join(TEXTS))
    assert written.code == 0
    table = pq.read_table("o.parquet").to_pylist()
    assert [row["sparse_terms"] for row in table] == [rows[[i]].indices.tolist() for i in range(3)]
    assert "vector" not in table[0]
    refused = decant("embed", "--model", sparse_model, "--output", "sparse", "-o", "o.npy", stdin="a")
    assert "a .npy holds one dense array" in refused.error


def test_terms_are_explained_to_people_and_programs(decant, sparse_model):
    encoder = Encoder.load(sparse_model)
    told = encoder.terms(encoder.encode(TEXTS, outputs=["sparse"]).sparse, top=3)
    shown = decant("embed", "--model", sparse_model, "--explain", "3", stdin="\n".join(TEXTS))
    assert shown.code == 0
    assert all(f"{weight:.3f}" in shown.out for row in told for _, weight in row)
    lines = decant(
        "embed", "--model", sparse_model, "--explain", "3", "--json", stdin="\n".join(TEXTS)
    ).out.splitlines()
    assert [[term for term, _ in json.loads(line)["terms"]] for line in lines] == [[t for t, _ in row] for row in told]


def test_rule_and_examples_reach_the_prompt(decant, tiny_model, tmp_path):
    options = ["--rule", "rare", "--kind", "query", "--instruction", "Find it"]
    done = decant("embed", *options, "--example", "what is a river => It carries water.", stdin="the sea")
    encoder = Encoder.load(tiny_model, rule="rare")
    expected = encoder.encode(
        ["the sea"], kind="query", instruction="Find it", examples=[("what is a river", "It carries water.")]
    )
    assert np.array_equal(np.float32(json.loads(done.out)["vector"]), expected.dense[0])
    (tmp_path / "e.jsonl").write_text('{"query": "what is the sea", "positive": "Water."}\n', "utf-8")
    found = decant("embed", *options, "--examples", "e.jsonl", stdin="the sea")
    assert found.code == 0 and found.out != done.out
    assert decant("convert", tiny_model, "rare", "--rule", "rare", "--examples", "e.jsonl").code == 0
    again = decant("embed", "--model", "rare", *options[2:], stdin="the sea")
    assert json.loads(again.out)["vector"] == json.loads(found.out)["vector"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rule", "e5"], "unknown prompt rule 'e5': choose from"),
        (["--output", "router"], "this model offers dense vectors, not router"),
        (["--explain", "3"], "this model offers dense vectors, not sparse"),
        (["--example", "a=>b"], "prompt takes no examples: leave them out"),
        (["--examples", "missing.jsonl"], "no prompt has a place for them"),
        (["--rule", "rare", "--examples", "missing.jsonl"], "cannot read the examples in missing.jsonl"),
        (["--adapter", "nowhere"], "no model folder at nowhere"),
    ],
)
def test_what_the_model_cannot_do_is_one_line(decant, options, message):
    done = decant("embed", *options, stdin="a")
    assert done.code == 1
    assert message in done.error


def test_options_that_contradict_each_other(decant):
    assert decant("embed", "--explain", "3", "--out", "o.npy", stdin="a").code == 2
    assert decant("embed", "--example", "no arrow", stdin="a").code == 2
