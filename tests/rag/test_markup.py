"""Front matter, headings and tables are told from prose, wherever a passage begins."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decant.index.testing import indexed
from decant.rag import Answerer
from decant.rag.markup import open_fence
from decant.rag.sentences import split_sentences

MARKDOWN = """---
title: "When to use it"
tags:

  - push
---

# Should I push?

Only in some cases. Mostly
do not.

* A list tells
  more. And more.
  1. Deep.

> Quoted words.

| metric | unit |
|--------|------|
| heat   | °C   |

```sh
push --all
```

Underlined
----------
The end.
"""
RST = """PEP: 8
Title: Style

Abstract
========

Two spaces are few. Four are
right.

+-----+-----+
| one | two |
+-----+-----+

::

    code()
"""


def parts(passage: str, media: str) -> tuple[list[str], list[str]]:
    found = split_sentences(passage, media)
    return [s.text for s in found if s.prose], [s.text for s in found if not s.prose]


def test_prose_of_markdown():
    prose, rest = parts(MARKDOWN, "markdown")
    assert prose == [
        "Only in some cases.", "Mostly\ndo not.", "A list tells\n  more.", "And more.", "Deep.", "Quoted words.",
        "The end.",
    ]  # fmt: skip
    assert "```sh\npush --all\n```" in rest
    assert "| heat   | °C   |" in rest
    assert {"# Should I push?", "Underlined\n----------"} <= set(rest)
    assert any("title:" in text for text in rest)


def test_prose_of_restructured_text():
    prose, rest = parts(RST, "rst")
    assert prose == ["Two spaces are few.", "Four are\nright."]
    assert "code()" in rest
    assert any("PEP: 8" in text for text in rest)
    assert "Abstract\n========" in rest


def test_code_of_restructured_text_ends_where_its_indent_does():
    passage = "Say::\n\n    one\n\n      two\n\nProse. More:\n\n.. code-block:: sh\n\n   ls\n\nLast.\n\n    Quoted.\n"
    prose, rest = parts(passage + "\n.. note::\n\n   Take care.\n", "rst")
    assert prose == ["Say::", "Prose.", "More:", "Last.", "Quoted.", ".. note::", "Take care."]
    assert {"one", "two", "ls"} <= set(rest)


def test_a_passage_that_begins_in_the_middle_of_code():
    document = "Do it:\n\n```sh\none. Two words.\n# three\n```\n\nProse. More.\n"
    cut = document.index("# three")
    fence = open_fence(document[:cut])
    found = split_sentences(document[cut:], "markdown", fence=fence)
    assert fence == "```"
    assert [s.text for s in found if s.prose] == ["Prose.", "More."]
    assert [s.text for s in found if not s.prose] == ["# three\n```"]
    only_code = split_sentences("one. Two words.", "markdown", fence=fence)
    assert not any(sentence.prose for sentence in only_code)


@pytest.mark.parametrize(
    ("before", "fence"),
    [
        ("", ""),
        ("```\na", "```"),
        ("```\na\n```\n", ""),
        ("````md\n```\na\n```\n", "````"),
        ("~~~\n```\n~~~\n", ""),
        ("> ```py\n> a\n", "```"),
        ("1. Do\n   ```py\n   a\n   ```\n2. Then\n   ~~~~\n", "~~~~"),
        ("a ``` b\n", ""),
        ("``` a `b`\n", ""),
    ],
)
def test_the_fence_a_text_ends_within(before, fence):
    assert open_fence(before) == fence


def test_emphasis_whose_other_half_is_elsewhere_is_left_out():
    prose, _ = parts(
        "**Only one. Never two.** So it is. **Both** halves. __Three and more.__ 2**3 is eight.", "markdown"
    )
    assert prose == ["Only one.", "Never two.", "So it is.", "**Both** halves.", "Three and more.", "2**3 is eight."]
    assert parts("It is **now. Later**", "markdown")[0] == ["It is **now.", "Later"]


def test_a_table_without_its_head_is_a_table():
    assert parts("| heat | °C |\n| light | lux |\n\nProse.", "markdown") == (
        ["Prose."],
        ["| heat | °C |", "| light | lux |"],
    )


def test_a_page_is_markdown():
    assert parts("# Keeping pages\n\nA page is kept.\n\n```\nkeep\n```\n", "html") == (
        ["A page is kept."],
        ["# Keeping pages", "```\nkeep\n```"],
    )


def test_headings_between_broken_lines():
    page = (
        "last words of a sentence that began on an earlier page\nby John Smith and\nMary Brown.\n\n"
        "2.1 How long a page is kept\nA page is kept for ten days, counted from\nMonday\n\nThe end of the paper"
    )
    prose, rest = parts(page, "pdf")
    assert rest == ["2.1 How long a page is kept", "The end of the paper"]
    assert prose[-1] == "A page is kept for ten days, counted from\nMonday"
    assert len(prose) == 2


def test_other_media_have_no_markup():
    assert parts("# not a heading of a text file", "text") == (["# not a heading of a text file"], [])


@pytest.mark.parametrize("media", ["markdown", "rst", "html", "pdf"])
@given(st.text(alphabet=st.sampled_from("ab. \n\r\t#-|=>*+`1\u2028é😀:[]<"), max_size=80))
def test_sentences_of_markup_are_verbatim_in_order_and_apart(media, passage):
    position = 0
    for sentence in split_sentences(passage, media):
        assert passage[sentence.start_char : sentence.end_char] == sentence.text == sentence.text.strip()
        assert sentence.start_char >= position
        position = sentence.end_char


def test_a_heading_is_quoted_only_where_nothing_else_answers(store, encoder, rules):
    heading, prose = "# Tungsten boils when heated", "Tungsten boils at 5930 degrees when heated strongly."
    store.replace([indexed("a.md", f"{heading}\n{prose}\n", encoder, path="a.md", media="markdown")])
    answer = Answerer(store, encoder, rules).ask("When heated, tungsten boils?")
    assert answer.citations[0].text == prose
    assert all(citation.text != heading for citation in answer.citations)
    store.replace([indexed("a.md", f"{heading}\n", encoder, path="a.md", media="markdown")])
    assert Answerer(store, encoder, rules).ask("When heated, tungsten boils?").citations[0].text == heading
