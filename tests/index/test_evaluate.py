"""Evaluation: a ten-line collection whose measures are known by hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from decant.embedder.errors import InputError
from decant.index import evaluate as module
from decant.index.beir import load_collection
from decant.index.chunking import ChunkSettings
from decant.index.errors import QueryError
from decant.index.evaluate import Progress, Scores, evaluate_per_query, score
from decant.index.testing import HashEncoder

FILLER = "plain words about nothing in particular that fill the page. " * 30
CORPUS = {
    "apple": ("Apple", "a red apple from the tree"),
    "pear": ("", "a green pear on the table"),
    "long": ("Long", FILLER + "at the very end a purple zebra appears. " + FILLER),
    "void": ("", "  "),
}
QUERIES = {"q1": "red apple", "q2": "purple zebra", "q3": "green pear", "unjudged": "who knows", "q4": "xylophone"}
QRELS = [("q1", "apple", 1), ("q2", "long", 1), ("q3", "apple", 1), ("q3", "pear", 0), ("q4", "pear", 2)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    beir = tmp_path / "beir"
    (beir / "qrels").mkdir(parents=True)
    corpus = [{"_id": name, "title": title, "text": text} for name, (title, text) in CORPUS.items()]
    queries = [{"_id": name, "text": text} for name, text in QUERIES.items()]
    (beir / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in corpus))
    (beir / "queries.jsonl").write_text("".join(json.dumps(line) + "\n" for line in queries))
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in QRELS)]
    (beir / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return beir


def test_scores_are_those_worked_out_by_hand(folder: Path) -> None:
    scores = evaluate_per_query(folder, HashEncoder(), modes=["lexical"], settings=ChunkSettings(tokens=24))["lexical"]
    reciprocal = scores.per_query["RR@10"]
    assert reciprocal == {"q1": 1.0, "q2": 1.0, "q3": 0.0, "q4": 0.0}
    assert scores.per_query["R@100"] == {"q1": 1.0, "q2": 1.0, "q3": 0.0, "q4": 0.0}
    assert scores.means()["RR@10"] == 0.5


def test_every_mode_and_measure_is_there_and_runs_are_written(folder: Path, tmp_path: Path) -> None:
    found = evaluate_per_query(folder, HashEncoder(), run_dir=tmp_path / "runs")
    means = {mode: scores.means() for mode, scores in found.items()}
    assert set(means) == {"dense", "lexical", "hybrid"}
    assert all(set(values) == {"nDCG@10", "AP", "R@100", "RR@10"} for values in means.values())
    first = (tmp_path / "runs" / "lexical.trec").read_text().splitlines()[0].split()
    assert first[:4] == ["q1", "Q0", "apple", "1"] and first[5] == "decant-lexical"
    values = [line.split("\t") for line in (tmp_path / "runs" / "lexical.per_query.tsv").read_text().splitlines()]
    assert sum(float(v) for _, measure, v in values if measure == "RR@10") / 4 == means["lexical"]["RR@10"]


def test_a_long_document_counts_once_with_its_best_chunk(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # With room for three documents, the long one's chunks must not push the others out.
    monkeypatch.setattr(module, "DEPTH", 3)
    scores = evaluate_per_query(folder, HashEncoder(), modes=["dense"], settings=ChunkSettings(tokens=8))["dense"]
    assert scores.per_query["R@100"] == {"q1": 1.0, "q2": 1.0, "q3": 1.0, "q4": 1.0}
    assert scores.per_query["RR@10"]["q2"] == 1.0


def test_equal_scores_keep_the_order_that_was_shown(folder: Path) -> None:
    collection = load_collection(folder)
    values = {}
    for name, order in (("hit", ["apple", "pear"]), ("miss", ["pear", "apple"])):
        values[name] = score(collection, {"q1": [(doc_id, 0.5) for doc_id in order]}).per_query["RR@10"]["q1"]
    assert values == {"hit": 1.0, "miss": 0.5}


def test_an_index_that_is_kept_is_used_again(folder: Path, tmp_path: Path) -> None:
    told: list[Progress] = []
    first = evaluate_per_query(
        folder, HashEncoder(), store_dir=tmp_path / "store", modes=["dense"], progress=told.append
    )
    assert any(step.stage == "chunks" for step in told) and told[-1] == Progress("dense", 4, 4)
    told.clear()
    again = evaluate_per_query(
        folder, HashEncoder(), store_dir=tmp_path / "store", modes=["dense"], progress=told.append
    )
    assert again == first
    assert all(step.stage == "dense" for step in told)


def test_unknown_mode_is_refused(folder: Path) -> None:
    with pytest.raises(QueryError, match="choose from dense"):
        evaluate_per_query(folder, HashEncoder(), modes=["fuzzy"])


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("corpus.jsonl", None, "corpus.jsonl is missing"),
        ("qrels/test.tsv", None, "qrels/test.tsv is missing"),
        ("qrels/test.tsv", "q1\tapple\tyes\nq1\tpear", "test.tsv:2: not 'query-id"),
        ("qrels/test.tsv", "q1\tapple\t0\n", "no query of queries.jsonl has a relevant document"),
        ("queries.jsonl", '{"_id": "q1", "text": " "}\n', "query 'q1' is empty"),
        ("queries.jsonl", "[1]\n", "queries.jsonl:1: not a JSON object"),
        ("corpus.jsonl", '{"text": "no id"}\n', "corpus.jsonl:1: no field '_id'"),
    ],
)
def test_a_broken_folder_is_named(folder: Path, name: str, content: str | None, message: str) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(InputError) as caught:
        evaluate_per_query(folder, HashEncoder(), modes=["dense"])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_intervals_hold_the_mean_and_narrow_with_more_queries() -> None:
    rng = np.random.default_rng(0)
    widths = []
    for count in (20, 2000):
        scores = Scores({"nDCG@10": {str(i): float(value) for i, value in enumerate(rng.random(count))}})
        low, high = scores.intervals()["nDCG@10"]
        assert low < scores.means()["nDCG@10"] < high
        assert scores.intervals() == scores.intervals()
        widths.append(high - low)
    assert widths[1] == pytest.approx(2 * 1.96 * np.sqrt(1 / 12 / 2000), rel=0.15)
    assert widths[0] > 4 * widths[1]


def test_rows_hold_what_an_index_would_and_what_a_mode_names(folder: Path) -> None:
    encoder = HashEncoder(outputs=("dense", "sparse"))
    encoder.indexed_outputs = ("dense",)
    assert set(evaluate_per_query(folder, encoder)) == {"dense", "lexical", "hybrid"}
    assert set(evaluate_per_query(folder, encoder, modes=["dense+sparse"])) == {"dense+sparse"}
    with pytest.raises(QueryError, match="needs router vectors"):
        evaluate_per_query(folder, encoder, modes=["router"])
