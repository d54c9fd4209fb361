"""`decant ask`, `chat` and `eval-qa` on a tiny model: the model knows nothing, the doors must work."""

from __future__ import annotations

import json
import re

import pytest

TEXT = "Copper turns green over the years. Iron rusts in moist air. The Rhine flows from the Alps to the sea.\n"


@pytest.fixture
def indexed(decant, tmp_path):
    docs = tmp_path / "docs"
    docs.mkdir()
    for i in range(3):
        (docs / f"{i}.txt").write_text(f"Document {i}. {TEXT}")
    assert decant("index", str(docs), "--cache-context", "int8").code == 0
    return docs


def test_indexing_keeps_the_context_where_asked_to(indexed, tmp_path):
    assert list(tmp_path.rglob("context/*/*.safetensors"))


def test_an_answer_has_its_sources_or_says_that_there_is_none(decant, indexed):
    outcome = decant("ask", "Which metal turns green over the years?", "--generator", "evidence", "--json")
    assert outcome.code == 0
    answer = outcome.json
    assert answer["grounded"] == bool(answer["citations"])
    assert answer["generator"] == "evidence"
    plain = decant("ask", "Which metal turns green over the years?", "--generator", "evidence")
    assert plain.out.startswith(answer["text"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--generator", "http://127.0.0.1:1/v1"], "needs the name of its model"),
        (["--generator", "nowhere"], "holds no decoder"),
        (["--generator", "reader"], "trained on another encoder|holds no reader"),
        (["--filter", "nonsense ="], "filter"),
        (["--kv-reuse", "1"], "name its folder"),
    ],
)
def test_what_cannot_answer_is_one_line(decant, indexed, options, message):
    outcome = decant("ask", "Which metal turns green?", *options)
    assert outcome.code != 0
    assert re.search(message, outcome.error)


def test_an_empty_question_is_refused(decant, indexed):
    assert "empty" in decant("ask", " ").error


def test_a_conversation_goes_line_by_line(decant, indexed):
    lines = "Which metal turns green over the years?\nWhy does it?\n\nWhy does it?\n"
    outcome = decant("chat", "--generator", "evidence", "--json", stdin=lines)
    assert outcome.code == 0
    queries = [json.loads(line)["query"] for line in outcome.out.splitlines()]
    assert queries == [
        "Which metal turns green over the years?",
        "Which metal turns green over the years? Why does it?",
        "Why does it?",
    ]


def test_eval_qa_measures_every_setting(decant, tmp_path):
    asked = [{"question": "Which metal turns green?", "answers": [{"text": "Copper", "answer_start": 0}]}]
    squad = tmp_path / "squad.json"
    squad.write_text(json.dumps({"data": [{"title": "t", "paragraphs": [{"context": TEXT, "qas": asked}]}]}))
    outcome = decant("eval-qa", str(squad), "--modes", "dense,hybrid", "--passages", "1,2", "--generator", "evidence")
    assert outcome.code == 0
    assert len(outcome.out.splitlines()) == 5
    both = ("--generator", "evidence,evidence", "--json")
    points = decant("eval-qa", str(squad), *both).json["points"]
    assert [(point["generator"], point["report"]["passage_recall"]) for point in points] == [("evidence", 1)] * 2
    assert "no list of numbers" in decant("eval-qa", str(squad), "--passages", "1;2").error
    squad.write_text("[]")
    assert "not SQuAD" in decant("eval-qa", str(squad)).error
