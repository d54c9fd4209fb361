from __future__ import annotations

from dataclasses import replace

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
