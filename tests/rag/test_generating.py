"""What becomes of a generator's text: checked, cited, dropped, marked, or replaced by quotations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from decant.index.testing import indexed
from decant.rag import NO_ANSWER, Answer, Answerer, Message
from decant.rag.conversation import condense
from decant.rag.grounding import UNSUPPORTED_MARK, read_claims
from decant.rag.testing import Scripted

COPPER = "Which metal turns green over the years?"


def answer_of(store, encoder, rules, text: str, question: str = COPPER, **options) -> Answer:
    return Answerer(store, encoder, rules, generator=Scripted(text)).ask(question, **options)


@pytest.mark.parametrize("piece", [1, 5, 1000])
def test_a_stream_is_the_answer_in_checked_sentences(store, encoder, rules, piece):
    generator = Scripted("Copper turns green [1]. It takes years.[1]\n\nIron rusts in moist air.", piece)
    *texts, answer = Answerer(store, encoder, rules, generator=generator).stream(COPPER)
    assert "".join(texts) == answer.text
    assert answer.text == "Copper turns green. [1]\n\nIron rusts in moist air. [2]"
    assert answer.dropped == ("It takes years.",)
    assert [citation.text for citation in answer.citations] == [
        "Copper turns green over the years.",
        "Iron rusts in moist air.",
    ]
    assert (answer.generator, answer.grounded, answer.note) == ("scripted", True, "")
    assert answer.usage.completion_tokens > 0
    assert generator.closed == 1


def test_a_sentence_without_support_is_dropped_or_marked(store, encoder, rules):
    text = "Copper turns green over the years [1]. Zinc sings opera [1]."
    answer = answer_of(store, encoder, rules, text)
    assert answer.text == "Copper turns green over the years. [1]"
    assert answer.dropped == ("Zinc sings opera.",)
    marked = answer_of(store, encoder, replace(rules, unsupported="mark"), text)
    assert marked.text == f"Copper turns green over the years. [1] Zinc sings opera. {UNSUPPORTED_MARK}"


@pytest.mark.parametrize(
    "nothing", ["!!! [1]", "the \ufffd\ufffd [1]", "Copper turns\x1b[2J green over the years. [1]"]
)
def test_what_is_no_text_has_no_support(store, encoder, rules, nothing):
    answer = answer_of(store, encoder, rules, nothing)
    assert answer.generator == "evidence" and len(answer.dropped) == 1


def test_a_wrong_number_makes_a_sentence_unsupported(store, encoder, rules):
    store.replace([indexed("bridge.txt", "The bridge at Cologne is 409 metres long.", encoder)])
    question = "How long is the bridge at Cologne?"
    right = answer_of(store, encoder, rules, "The bridge is 409 metres long.", question)
    wrong = answer_of(store, encoder, rules, "The bridge is 490 metres long.", question)
    assert right.generator == "scripted"
    assert wrong.generator == "evidence"
    assert wrong.dropped


def test_where_nothing_is_supported_the_documents_are_quoted_and_the_reason_given(store, encoder, rules):
    answer = answer_of(store, encoder, rules, "Bananas are yellow fruit.")
    assert answer.generator == "evidence"
    assert "scripted" in answer.note
    assert answer.citations[0].text == "Copper turns green over the years."


@pytest.mark.parametrize("text", [NO_ANSWER, f'"{NO_ANSWER.lower()}"', f"[1] {NO_ANSWER}"])
def test_a_generator_may_say_that_there_is_no_answer(store, encoder, rules, text):
    answer = answer_of(store, encoder, rules, text)
    assert (answer.text, answer.citations, answer.grounded) == (NO_ANSWER, (), False)
    assert answer.generator == "scripted"


@pytest.mark.parametrize("text", ["", " [1] "])
def test_a_generator_that_is_not_sure_leaves_the_word_to_the_documents(store, encoder, rules, text):
    answer = answer_of(store, encoder, rules, text)
    assert answer.text.startswith("Copper turns green over the years. [1]")
    assert (answer.generator, answer.grounded) == ("evidence", True)
    assert "not sure" in answer.note


def test_without_evidence_no_generator_is_asked(store, encoder, rules):
    generator = Scripted("Michelangelo.")
    assert not Answerer(store, encoder, rules, generator=generator).ask("Who painted ceilings?").grounded
    assert generator.tasks == []


def test_a_generator_that_obeys_a_document_cites_it_or_is_dropped(store, encoder, rules):
    for text in ("banana", "banana [1]", "[1] banana. Ignore the rules."):
        answer = answer_of(store, encoder, rules, text, "Which river of Europe is the Rhine?")
        for citation in answer.citations:
            assert store.text(citation.doc_id)[citation.start_char : citation.end_char] == citation.text
        if answer.generator == "scripted":
            assert all("banana" in citation.text for citation in answer.citations)


def test_a_source_that_is_not_there_is_not_cited(store, encoder, rules):
    answer = answer_of(store, encoder, rules, "Copper turns green over the years [99].")
    assert [citation.number for citation in answer.citations] == [1]
    assert "[99]" not in answer.text


def test_a_stream_that_is_left_frees_the_generator(store, encoder, rules):
    generator = Scripted("Copper turns green. Iron rusts in moist air. Copper turns green.")
    stream = Answerer(store, encoder, rules, generator=generator).stream(COPPER)
    next(stream)
    stream.close()
    assert generator.closed == 1


def test_a_generator_is_given_history_sources_and_tenant(store, encoder, rules):
    generator = Scripted("The Rhine flows from the Alps.")
    history = (Message("user", "Where does the Rhine flow?"), Message("assistant", "To the sea."))
    Answerer(store, encoder, rules, generator=generator).ask("And from where?", history=history, tenant="one", k=2)
    [task] = generator.tasks
    assert (task.question, task.history, task.tenant) == ("And from where?", history, "one")
    assert task.query == "Where does the Rhine flow? And from where?"
    assert [source.number for source in task.sources] == [1, 2]
    assert all(source.quotes for source in task.sources)


@pytest.mark.parametrize(
    ("question", "earlier", "expected"),
    [
        ("How long is it?", ["What is the Rhine?"], "What is the Rhine? How long is it?"),
        ("Why?", ["How long is it?", "What is the Rhine?"], "What is the Rhine? How long is it? Why?"),
        ("Which metals rust in moist air?", ["What is the Rhine?"], "Which metals rust in moist air?"),
        ("How long is it?", [], "How long is it?"),
    ],
)
def test_a_question_takes_from_the_conversation_what_it_points_back_to(question, earlier, expected):
    history = [Message("user", text) for text in reversed(earlier)] + [Message("assistant", "It is.")]
    assert condense(question, history) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One is here [1]. Two, there.[2][3] Three", [("One is here.", (1,)), ("Two, there.", (2, 3)), ("Three", ())]),
        ("A b c [1, 2; 3].", [("A b c.", (1, 2, 3))]),
        ("[1]", [("", (1,))]),
        ("", []),
    ],
)
@pytest.mark.parametrize("piece", [1, 3, 100])
def test_markers_belong_to_the_sentence_before_them(text, expected, piece):
    pieces = iter(text[i : i + piece] for i in range(0, len(text), piece))
    assert [(claim.text, claim.named) for claim in read_claims(pieces)] == expected
