from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from decant.index import Store
from decant.index.testing import indexed
from decant.rag import Answerer, AnswerError
from decant.rag.generation import NO_ANSWER

METALS = "Iron rusts in moist air. Copper turns green over the years.\n"


def test_an_answer_quotes_the_sentence_that_says_it(store, encoder, rules):
    answer = Answerer(store, encoder, rules).ask("Which metal turns green over the years?")
    assert answer.grounded
    assert answer.citations[0].text == "Copper turns green over the years."
    assert answer.text.startswith("Copper turns green over the years. [1]")
    assert answer.citations[0].path == "metals.txt"


@pytest.mark.parametrize("question", ["Where does the Rhine reach the sea?", "Where does Evian water come from?"])
def test_every_citation_is_found_at_its_range(store, encoder, question, rules):
    answer = Answerer(store, encoder, rules).ask(question)
    assert answer.citations
    for citation in answer.citations:
        assert store.text(citation.doc_id)[citation.start_char : citation.end_char] == citation.text
        assert f"{citation.text} [{citation.number}]" in answer.text


def test_a_question_the_documents_do_not_touch_has_no_answer(store, encoder, rules):
    answer = Answerer(store, encoder, rules).ask("Who painted ceilings?")
    assert (answer.text, answer.citations, answer.grounded) == (NO_ANSWER, (), False)


def test_a_citation_the_store_no_longer_holds_is_left_out(store, encoder, monkeypatch, rules):
    answerer = Answerer(store, encoder, rules)
    read = store.text
    monkeypatch.setattr(store, "text", lambda doc_id: read(doc_id).replace("Copper", "Bronze"))
    answer = answerer.ask("Which metal turns green over the years?")
    assert all("Copper" not in citation.text for citation in answer.citations)


def test_a_document_cannot_give_orders(store, encoder, rules):
    answer = Answerer(store, encoder, rules).ask("Which river of Europe is the Rhine?")
    assert answer.citations
    for citation in answer.citations:
        assert store.text(citation.doc_id)[citation.start_char : citation.end_char] == citation.text
    assert answer.text != "banana"


def test_the_same_sentence_is_quoted_once(store, encoder, rules):
    store.replace([indexed("copy.txt", METALS, encoder, path="copy.txt")])
    answer = Answerer(store, encoder, replace(rules, share=0.0)).ask("Which metal turns green over the years?")
    texts = [citation.text for citation in answer.citations]
    assert len(texts) == len(set(texts)) == 3


def test_bad_questions_are_refused(store, encoder, rules):
    answerer = Answerer(store, encoder, rules)
    with pytest.raises(AnswerError, match="empty"):
        answerer.ask(" \n")
    with pytest.raises(AnswerError, match="longer than the model's 64 tokens"):
        answerer.ask("why " * 100)


def test_an_empty_store_has_no_answer(tmp_path, encoder, rules):
    with Store.open(tmp_path / "empty", encoder=encoder, create=True) as store:
        assert Answerer(store, encoder, rules).ask("Is anyone there?").text == NO_ANSWER


class Judging:
    """A judge that knows the answer by a word."""

    def __init__(self, word: str) -> None:
        self.word = word

    def odds(self, task, found):
        return np.array([12.0 if self.word in evidence.sentence.text else -12.0 for evidence in found])


def test_a_judge_puts_the_sentence_that_answers_first(store, encoder, rules):
    question = "Which metal turns green over the years?"
    plain = Answerer(store, encoder, rules).ask(question)
    judged = Answerer(store, encoder, replace(rules, judge_weight=2.0), judge=Judging("Iron")).ask(question)
    assert "Copper" in plain.citations[0].text
    assert [citation.text for citation in judged.citations] == ["Iron rusts in moist air."]
    assert judged.citations[0].score > plain.citations[0].score
    unweighed = Answerer(store, encoder, replace(rules, judge_weight=0.0), judge=Judging("Iron")).ask(question)
    assert unweighed == plain


def test_a_judge_refuses_what_only_seems_to_answer(store, encoder, rules):
    rules = replace(rules, judge_weight=2.0)
    answer = Answerer(store, encoder, rules, judge=Judging("nowhere")).ask("Which metal turns green over the years?")
    assert (answer.text, answer.citations, answer.grounded) == (NO_ANSWER, (), False)


class Silent:
    """A judge that has nothing to say."""

    def odds(self, task, found):
        return np.zeros(len(found))


def test_a_judge_that_speaks_has_a_threshold_of_its_own(store, encoder, rules):
    question = "Which metal turns green over the years?"

    def answered(judge, **changed) -> bool:
        return Answerer(store, encoder, replace(rules, **changed), judge=judge).ask(question).grounded

    assert answered(Judging("Copper"), threshold=99.0, judged_threshold=0.0)
    assert not answered(Judging("Copper"), threshold=0.0, judged_threshold=99.0)
    assert answered(Silent(), threshold=0.0, judged_threshold=99.0)
    assert not answered(Silent(), threshold=99.0, judged_threshold=0.0)


def test_a_passage_s_rank_weighs(store, encoder, rules):
    question = "Which metal turns green over the years?"
    store.replace([indexed("green", "Copper turns green over the years? Green it turns.", encoder, path="green.txt")])
    every = Answerer(store, encoder, replace(rules, rank_weight=0.0, share=0.0, sentences=9)).ask(question).citations
    ranks = {hit.chunk.doc_id: i for i, hit in enumerate(Answerer(store, encoder, rules).retrieve(question))}
    weighed = replace(rules, rank_weight=50.0, threshold=-999.0, share=-99.0, sentences=99)
    found = Answerer(store, encoder, weighed).ask(question).citations
    assert [ranks[c.doc_id] for c in found] == sorted(ranks[c.doc_id] for c in found)
    assert [ranks[c.doc_id] for c in every] != sorted(ranks[c.doc_id] for c in every)


def test_what_only_repeats_the_question_is_not_quoted_where_something_answers(store, encoder, rules):
    title, prose = "Boiling tungsten.", "Tungsten is boiling at 5930 degrees."
    store.replace([indexed("a", f"{title} {prose}", encoder, path="a.txt")])
    answerer = Answerer(store, encoder, rules)
    assert [citation.text for citation in answerer.ask("Boiling tungsten?").citations][:1] == [prose]
    store.replace([indexed("a", title, encoder, path="a.txt")])
    assert answerer.ask("Boiling tungsten?").citations[0].text == title


def test_prose_is_quoted_on_one_line_and_cited_as_it_stands(store, encoder, rules):
    made = indexed("a", "Tungsten is boiling at 5930 degrees.", encoder, path="a.txt")
    broken = made.document.text.replace(" at", "\nat")
    chunks = [replace(chunk, text=broken) for chunk in made.chunks]
    store.replace([replace(made, document=replace(made.document, text=broken), chunks=chunks)])
    answer = Answerer(store, encoder, rules).ask("Boiling tungsten?")
    assert answer.text.startswith("Tungsten is boiling at 5930 degrees. [1]")
    assert answer.citations[0].text == broken
