"""`decant convert` and `eval`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from decant.embedder import Encoder, EncoderSpec, spec
from decant.embedder.formats.folder import DEFAULT_MODEL
from decant.service.cli.convert import AttentionChoice, PoolingChoice


@pytest.fixture
def broken_invariant(monkeypatch):
    """A model whose tokens do not see what follows, though its description says they do."""
    original = Encoder.load.__func__

    def load(cls, *args, **kwargs):
        encoder = original(cls, *args, **kwargs)
        encoder.backbone.attention = spec.Attention.CAUSAL
        return encoder

    monkeypatch.setattr(Encoder, "load", classmethod(load))


def test_a_model_that_breaks_an_invariant_is_not_saved(decant, tiny_model, tmp_path, broken_invariant):
    done = decant("convert", tiny_model, "out", "--json")
    assert (done.code, done.json["passed"], done.json["out"]) == (4, False, None)
    assert list(tmp_path.iterdir()) == []


def test_convert_saves_what_was_asked_for(decant, tiny_model, tmp_path):
    options = ["--attention", "causal", "--pooling", "last", "--max-tokens", "50", "--query-prompt", "query: "]
    options += ["--exclude-prompt", "--append-eos", "--dimension", "16", "--dimension", "8"]
    done = decant("convert", tiny_model, "out", *options)
    assert done.code == 0
    assert "saved to out; 32 dimensions, up to 50 tokens" in done.err
    saved = Encoder.load(tmp_path / "out").spec
    assert (saved.attention, saved.pooling, saved.max_tokens) == ("causal", "last", 50)
    assert (saved.prompts["query"], saved.include_prompt, saved.append_eos) == ("query: ", False, True)
    assert saved.dimensions == (16, 8)


def test_convert_refuses_a_folder_in_use(decant, tiny_model, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep", "utf-8")
    done = decant("convert", tiny_model, "out")
    assert done.code == 1
    assert "not empty" in done.error
    assert (tmp_path / "out" / "mine").read_text("utf-8") == "keep"


def test_choices_are_those_of_the_spec():
    assert list(AttentionChoice) == list(spec.Attention)
    assert list(PoolingChoice) == list(spec.Pooling)


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    texts = ["rivers carry water", "the committee met", "a function adds numbers"]
    corpus = [json.dumps({"_id": f"d{i}", "title": "", "text": text}) for i, text in enumerate(texts)]
    queries = [json.dumps({"_id": f"q{i}", "text": text.split()[-1]}) for i, text in enumerate(texts)]
    (folder / "corpus.jsonl").write_text("\n".join(corpus), "utf-8")
    (folder / "queries.jsonl").write_text("\n".join(queries), "utf-8")
    rows = [f"q{i}\td{i}\t1" for i in range(3)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *rows]), "utf-8")
    return folder


def test_eval_prints_one_object_with_a_key_per_mode(decant, beir):
    done = decant("eval", beir, "--json")
    assert done.code == 0
    assert list(done.json) == ["dense", "lexical", "hybrid"]
    assert all({"nDCG@10", "AP", "R@100", "RR@10"} <= set(values) for values in done.json.values())
    assert done.json["lexical"]["nDCG@10"] == 1.0


def test_eval_writes_runs_for_the_modes_asked_for(decant, beir, tmp_path):
    done = decant("eval", beir, "--modes", "lexical", "--run-dir", "runs")
    assert done.code == 0
    assert "lexical" in done.out
    assert "dense" not in done.out
    assert (tmp_path / "runs" / "lexical.trec").read_text("utf-8").startswith("q0 ")


def test_eval_weighs_the_routers(decant, tiny_experts, beir, tmp_path):
    assert decant("convert", tiny_experts, "moe", "--pooling", "last", "--router", "last").code == 0
    runs = {}
    for mode, weight in (("dense", "1"), ("moee", "0"), ("moee", "0.25"), ("router", "1")):
        folder = f"{mode}-{weight}"
        done = decant(
            "eval", beir, "--model", "moe", "--modes", mode, "--router-weight", weight, "--run-dir", folder, "--json"
        )
        assert list(done.json) == [mode], done.err
        rows = [line.split() for line in (tmp_path / folder / f"{mode}.trec").read_text().splitlines()]
        runs[mode, weight] = {(row[0], row[2]): float(row[4]) for row in rows}
    assert runs["moee", "0"] == pytest.approx(runs["dense", "1"], abs=1e-5)
    wanted = {pair: score + 0.25 * runs["router", "1"][pair] for pair, score in runs["dense", "1"].items()}
    assert runs["moee", "0.25"] == pytest.approx(wanted, abs=1e-5)


def test_convert_and_verify_a_mixture_of_experts(decant, tiny_experts, tmp_path):
    (tmp_path / "texts.txt").write_text("rivers carry water\nthe committee met\na function adds\n", "utf-8")
    options = ["--rule", "prompt-eol", "--router", "last", "--router-calibration", "texts.txt"]
    done = decant("convert", tiny_experts, "out", *options)
    assert done.code == 0, done.err
    assert "32 dimensions, 8 experts" in done.err
    checked = decant("verify", "out", "--json").json
    assert checked["passed"] and checked["outputs"] == ["dense", "router"]
    rows = [
        json.loads(line)
        for line in decant("embed", "--model", "out", "--output", "router", stdin="a\nb").out.splitlines()
    ]
    assert [len(row["router"]) for row in rows] == [8, 8] and "vector" not in rows[0]
    alone = decant("convert", tiny_experts, "other", "--router-calibration", "texts.txt")
    assert "only router vectors are calibrated: add a router" in alone.error
    Path("docs").mkdir()
    for number, text in enumerate(("rivers carry water", "the committee met", "bread in the oven")):
        Path(f"docs/{number}.txt").write_text(text)
    made = decant("index", "docs", "--model", "out")
    assert made.code == 0, made.err
    scores = {}
    for mode, weight in (("dense", "1"), ("router", "1"), ("moee", "0.25")):
        found = decant("search", "water", "--model", "out", "--mode", mode, "--router-weight", weight, "--json")
        assert found.code == 0, found.err
        scores[mode] = {hit["path"]: hit["score"] for hit in found.json["hits"]}
    for path, score in scores["moee"].items():
        assert score == pytest.approx(scores["dense"][path] + 0.25 * scores["router"][path], abs=1e-4)


def test_a_sparse_head_the_model_does_not_have(decant, tiny_model):
    assert "has no language-model head" in decant("convert", tiny_model, "out", "--sparse").error
    assert "leaves nothing to give out" in decant("convert", tiny_model, "out", "--pooling", "none").error
    assert "has no routers to listen to" in decant("convert", tiny_model, "out", "--router", "last").error


def test_a_sparse_encoder_alone_from_a_model_with_widths(decant, tmp_path):
    import torch
    from sentence_transformers import SparseEncoder

    model = shutil.copytree(DEFAULT_MODEL, tmp_path / "model", ignore=shutil.ignore_patterns("lm_head"))
    replace(EncoderSpec.from_json((model / "decant.json").read_text()), sparse=None).save(model)
    done = decant("convert", model, "sparse", "--pooling", "none", "--sparse", "--sparse-special-tokens")
    assert done.code == 0, done.err
    encoder = Encoder.load(tmp_path / "sparse", dtype="float32")
    assert encoder.outputs == ("sparse",)
    plain = SparseEncoder(str(tmp_path / "sparse"), device="cpu", model_kwargs={"dtype": torch.float32})
    expected = plain.encode(["rivers carry water"]).to_dense().numpy()
    assert abs(encoder.encode(["rivers carry water"]).sparse.toarray() - expected).max() <= 1e-4


def test_eval_mexa_reads_two_files_or_pairs(decant, tmp_path):
    texts = ["rivers carry water", "the committee met", "a function adds"]
    (tmp_path / "a.txt").write_text("\n".join(texts), "utf-8")
    (tmp_path / "b.txt").write_text("\n".join(texts), "utf-8")
    records = [{"id": i, "en": text, "de": text, "note": "n"} for i, text in enumerate(texts)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, records)), "utf-8")
    found = decant("eval", "--mexa", "a.txt", "b.txt", "--json").json
    assert found["pairs"] == 3 and found["chance"] == 0.2
    assert found["layers"][-1] == found["vectors"] == 1.0
    assert decant("eval", "--mexa", "pairs.jsonl", "--fields", "en,de", "--json").json == found
    assert "best layer" in decant("eval", "--mexa", "a.txt", "b.txt", "--sentence", "last").out


def test_eval_mexa_says_what_does_not_fit(decant, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo\n", "utf-8")
    (tmp_path / "b.txt").write_text("one\n", "utf-8")
    (tmp_path / "pairs.jsonl").write_text('{"en": "one", "de": "eins", "fr": "un"}\n[1]\n', "utf-8")
    assert "2 lines" in decant("eval", "--mexa", "a.txt", "b.txt").error
    assert "--fields" in decant("eval", "--mexa", "pairs.jsonl").error
    assert "not a JSON object" in decant("eval", "--mexa", "pairs.jsonl", "--fields", "en,de").error
    assert decant("eval", "--mexa", "a.txt").code == 2
    assert decant("eval", "--mexa", "--health", "a.txt").code == 2


def test_eval_health_draws_every_layer(decant, tmp_path):
    (tmp_path / "a.txt").write_text("rivers carry water\nthe committee met\na function adds\n", "utf-8")
    found = decant("eval", "--health", "a.txt", "--plot", "health.png", "--json").json
    assert len(found["layers"]) == 3 and found["vectors"]["rows"] == 3
    assert (tmp_path / "health.png").stat().st_size > 0
    assert "effective rank" in decant("eval", "--health", "a.txt").out
