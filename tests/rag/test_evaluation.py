from __future__ import annotations

import gzip
import json
from dataclasses import replace

import pytest

from decant.index import Store
from decant.index.testing import indexed
from decant.rag import Answerer, AnswerError
from decant.rag.evaluation import (
    Example,
    QaReport,
    SweepPoint,
    draw_sweep,
    evaluate_qa,
    index_examples,
    read_examples,
    recommended,
)
from decant.rag.metrics import exact_match, f1, holds_answer
from decant.rag.testing import Scripted

PASSAGES = ["Copper turns green over the years. It is a metal.", "The Rhine flows from the Alps. It is a river."]


@pytest.mark.parametrize(
    ("answer", "gold", "exact", "overlap"),
    [
        ("The Eiffel Tower!", ["eiffel  tower"], 1, 1),
        ("in 1987", ["1987"], 0, 2 / 3),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("a b c", ["x", "b c d"], 0, 0.8),
    ],
)
def test_squads_measures(answer, gold, exact, overlap):
    assert exact_match(answer, gold) == exact
    assert f1(answer, gold) == pytest.approx(overlap)


def test_an_answer_is_held_as_words_and_not_as_letters():
    assert holds_answer("It was the Rhine, of course.", ["rhine"])
    assert not holds_answer("It was rhinestone.", ["rhine"])
    assert not holds_answer("The end.", ["the"])


def squad(path, *, version2: bool = False):
    qas = [
        {"question": "Which metal turns green?", "answers": [{"text": "Copper"}, {"text": "Copper"}]},
        {"question": "Where does zinc sing?", "answers": [], "is_impossible": True},
    ]
    paragraphs = [{"context": PASSAGES[0], "qas": qas[: 1 + version2]}, {"context": PASSAGES[1], "qas": []}]
    data = json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]}).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def test_squads_files_are_read(tmp_path):
    assert read_examples(squad(tmp_path / "a.json")) == [Example("Which metal turns green?", PASSAGES[0], ("Copper",))]
    assert [e.gold for e in read_examples(squad(tmp_path / "b.json.gz", version2=True))] == [("Copper",), ()]
    assert len(read_examples(tmp_path / "b.json.gz", 1)) == 1
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(AnswerError, match="not SQuAD"):
        read_examples(tmp_path / "c.json")


def test_answers_are_judged(tmp_path, encoder, rules):
    examples = [
        Example("Which metal turns green over the years?", PASSAGES[0], ("Copper",)),
        Example("Where does the Rhine flow from?", PASSAGES[1], ("the Alps",)),
        Example("Who painted ceilings?", PASSAGES[1], ()),
    ]
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        fillers = [Example("", f"Filler number {i} speaks of thing{i}.", ()) for i in range(30)]
        index_examples(store, encoder, [*examples, *fillers])
        answerer = Answerer(store, encoder, rules, generator=Scripted("Copper."))
        report = evaluate_qa(answerer, examples)
    assert report.exact_match == report.f1 == 0.5
    assert (report.coverage, report.passage_recall, report.answer_recall) == (1, 1, 1)
    assert report.citation_precision == 0.5
    assert report.abstention == 1
    assert report.seconds > 0


def test_a_part_of_a_passage_that_was_cut_is_found(tmp_path, encoder, rules):
    question, passage = "Which metal turns green over the years?", "Copper turns green over the years.\nA metal.\n"
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        store.replace([indexed("p", passage, encoder)])
        examples = [Example(question, text, ("Copper",)) for text in (passage, "Zinc does not.")]
        assert evaluate_qa(Answerer(store, encoder, rules), examples).passage_recall == 0.5


class Sure:
    """A generator that knows how sure it is, by the question."""

    name = "sure"

    def __init__(self, chances):
        self.chances = chances

    def generate(self, task):
        task.meter.confidence = self.chances[task.question]
        return iter(["Copper."])


def test_how_many_are_refused_where_confidence_decides(tmp_path, encoder, rules):
    asked = [f"Which metal number {i} turns green over the years?" for i in range(10)]
    examples = [Example(q, PASSAGES[0], ("Copper",) if i < 5 else ()) for i, q in enumerate(asked)]
    chances = dict(zip(asked, [0.9, 0.8, 0.7, 0.6, 0.1, 0.05, 0.5, 0.65, 0.2, 0.95], strict=True))
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        index_examples(store, encoder, examples)
        answerer = Answerer(store, encoder, replace(rules, floor=-9, threshold=-9), generator=Sure(chances))
        assert evaluate_qa(answerer, examples).abstention_at_80 == pytest.approx(3 / 5)
        assert evaluate_qa(answerer, examples[:5]).abstention_at_80 is None
        quoting = Answerer(store, encoder, rules)
        assert evaluate_qa(quoting, examples).abstention_at_80 is None


def point(k: int, score: float, mode: str = "hybrid") -> SweepPoint:
    return SweepPoint("reader", mode, k, QaReport(9, 0, score, 0, 0, 0, 0, 0, None, None, 0, 0, 0))


def test_the_fewest_passages_that_do_are_recommended(tmp_path):
    rising = [point(1, 0.3), point(4, 0.5), point(8, 0.505), point(16, 0.506)]
    falling = [point(1, 0.3), point(4, 0.5), point(8, 0.4), point(4, 0.504, "dense")]
    assert recommended(rising).k == 4
    assert recommended(falling).mode == "dense"
    pytest.importorskip("matplotlib")
    draw_sweep([*rising, *falling], tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"
