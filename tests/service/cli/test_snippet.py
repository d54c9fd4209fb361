"""Which part of a passage is shown, and what is marked in it."""

from __future__ import annotations

import pytest

from decant.service.cli.snippet import snippet_of


def marked(passage: str, query: str, limit: int = 280) -> list[str]:
    snippet = snippet_of(passage, query, limit)
    return [snippet.text[start:end] for start, end in snippet.marked]


def test_a_short_passage_is_shown_whole_on_one_line():
    assert snippet_of("one\n\n  two\tthree", "x").text == "one two three"


@pytest.mark.parametrize(
    ("query", "passage", "words"),
    [
        ("Rivers", "a river, RIVERS and riverbanks", ["river", "RIVERS"]),
        ("how do I index files", "Indexing a file, or how I do it", ["Indexing", "file"]),
        ("the of", "the end of it", ["the", "of"]),
        ("add", "added addition address add", ["add"]),
        ("straße", "Die STRASSE", ["STRASSE"]),
        ("???", "what ???", []),
    ],
)
def test_words_of_the_query_are_marked_in_all_their_forms(query, passage, words):
    assert marked(passage, query) == words


def test_the_stretch_with_most_query_words_is_cut_out():
    passage = "water " + "filler words go on and on. " * 30 + "rivers bring water to the sea. " + "more of it. " * 30
    snippet = snippet_of(passage, "rivers water sea", 120)
    assert len(snippet.text) <= 120 + 4
    assert snippet.text.startswith("… ")
    assert snippet.text.endswith(" …")
    assert "rivers bring water to the sea" in snippet.text
    assert marked(passage, "rivers water sea", 120) == ["rivers", "water", "sea"]


def test_a_passage_without_query_words_is_shown_from_its_beginning():
    snippet = snippet_of("Once upon a time. " * 40, "zebra", 100)
    assert snippet.text.startswith("Once upon a time.")
    assert snippet.marked == ()


@pytest.mark.parametrize("passage", ["", "x" * 5000, "word " * 1000 + "x" * 400, "長い文章" * 400])
def test_any_text_is_cut_to_the_limit(passage):
    snippet = snippet_of(passage, "word 長い文章", 50)
    assert len(snippet.text) <= 54
    assert all(0 <= start < end <= len(snippet.text) for start, end in snippet.marked)
