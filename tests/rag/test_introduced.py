"""What a colon introduces is quoted with it, whole lines of it, and never more than that."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decant.index.testing import indexed
from decant.rag import Answerer, introduced
from decant.rag.introduced import MAX_CHARS

LONG = "x" * MAX_CHARS


def behind(document: str, lead: str) -> str:
    start = document.index(lead)
    end = introduced.introduced(document, start, start + len(lead))
    return document[start + len(lead) : end]


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("Run this:\n\n```sh\na\n\nb\n```\n\nNext.", "\n\n```sh\na\n\nb\n```"),
        ("Run this:\n~~~\n```\n~~~\nNext.", "\n~~~\n```\n~~~"),
        ("Run this:\n\n```sh\na\n", ""),
        (f"Run this:\n\n```sh\n{LONG}\n```\n", ""),
        ("Run this:\n* one\n  more\n* two\n\n* three\n\nNext.", "\n* one\n  more\n* two\n\n* three"),
        ("Run this:\n1. one\n   - deep\n2. two\nNext.", "\n1. one\n   - deep\n2. two"),
        ("Run this:\n• one that\ngoes on\n• two\nNext.", "\n• one that\ngoes on\n• two"),
        (f"Run this:\n* one\n* {LONG}\n", "\n* one"),
        ("- Run this:\n- Next\n", ""),
        ("- Run this:\n  - deep\n- Next\n", "\n  - deep"),
        ("  Run this:\n- Next\n", ""),
        ("Run this:\n\n    code()\n\n    more()\n\nNext.", "\n\n    code()\n\n    more()"),
        ("    Run this:\n\n    no code\n", ""),
        ("Run this:\n\n.. code-block:: sh\n\n   ls\n   cd\n\nNext.", "\n\n.. code-block:: sh\n\n   ls\n   cd"),
        ("Run this:\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\nNext.", "\n\n| a | b |\n|---|---|\n| 1 | 2 |"),
        ("Run this:\n\n+---+\n| a |\n+---+\nNext.", "\n\n+---+\n| a |\n+---+"),
        ("Run this:\n\nA paragraph.", ""),
        ("Run this: and that.\n* one\n", ""),
        ("Run this:\n\n\n\n* far away\n", ""),
        ("Run this:", ""),
        ("Run this:\n", ""),
        ("Run this:\r\n\r\n* one\r\n* two\r\n\r\nNext.", "\r\n\r\n* one\r\n* two"),
    ],
)
def test_what_belongs_to_a_lead(document, expected):
    assert behind(document, "Run this:") == expected


def test_a_sentence_without_a_colon_introduces_nothing():
    assert behind("Run this.\n\n```\na\n```\n", "Run this.") == ""


@given(st.text(alphabet=st.sampled_from("ab:`~|*-1.\n\r\t •+"), max_size=120), st.integers(0, 120))
def test_it_is_whole_lines_and_bounded(document, cut):
    document = document[:cut] + "Go:" + document[cut:]
    start = document.index("Go:")
    end = introduced.introduced(document, start, start + 3)
    taken = document[start + 3 : end]
    assert len(taken) <= MAX_CHARS
    assert not taken or (taken[0] in "\r\n\t " and taken == taken.rstrip())
    assert not taken or not document[end:].splitlines()[:1] or not document[end:].splitlines()[0].strip()


def test_an_answer_brings_the_command_that_its_sentence_introduces(store, encoder, rules):
    text = "To melt copper quickly, call:\n\n```sh\nmelt --copper\n```\n\nThe smell of tin is faint.\n"
    store.replace([indexed("a.md", text, encoder, path="a.md", media="markdown")])
    answer = Answerer(store, encoder, rules).ask("melt copper quickly?")
    assert answer.text.startswith("To melt copper quickly, call: [1]\n\n```sh\nmelt --copper\n```")
    assert answer.citations[0].text == text[: text.index("\n\nThe")]
    for citation in answer.citations:
        assert text[citation.start_char : citation.end_char] == citation.text
    assert sum("melt --copper" in citation.text for citation in answer.citations) == 1


def test_the_same_lead_with_other_code_is_quoted_again_and_with_the_same_is_not(store, encoder, rules):
    for name, code in (("a", "one"), ("b", "one"), ("c", "two")):
        text = f"To melt copper quickly, call:\n\n```\n{code}\n```\n"
        store.replace([indexed(name, text, encoder, path=f"{name}.md", media="markdown")])
    answer = Answerer(store, encoder, rules).ask("melt copper quickly?")
    whole = [citation.text for citation in answer.citations if citation.text.startswith("To melt")]
    assert sorted(text.split()[-2] for text in whole) == ["one", "two"]
    assert answer.text.count("```\none\n```") == answer.text.count("```\ntwo\n```") == 1
    assert [f"[{citation.number}]" in answer.text for citation in answer.citations] == [True] * len(answer.citations)


def test_one_of_a_list_is_not_quoted_beside_the_list(store, encoder, rules):
    text = "To melt copper quickly you need:\n\n* copper that you melt quickly in a crucible\n* a fire\n"
    store.replace([indexed("a.md", text, encoder, path="a.md", media="markdown")])
    rules = replace(rules, share=0.0, sentences=9)
    answer = Answerer(store, encoder, rules).ask("melt copper quickly you need?")
    assert answer.citations[0].text == text.strip()
    assert answer.text.count("copper that you melt quickly") == 1
    assert [citation for citation in answer.citations if citation.doc_id == "a.md"] == [answer.citations[0]]
