from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from decant.rag.sentences import split_sentences


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_sentences_are_verbatim_in_order_and_apart(passage):
    position = 0
    for sentence in split_sentences(passage):
        assert passage[sentence.start_char : sentence.end_char] == sentence.text == sentence.text.strip()
        assert sentence.start_char >= position
        position = sentence.end_char


@pytest.mark.parametrize(
    ("passage", "expected"),
    [
        ("Dr. Smith left. He came back!", ["Dr. Smith left.", "He came back!"]),
        ("Das ist gut. 😀 Ça va? Oui.", ["Das ist gut.", "😀 Ça va?", "Oui."]),
        ("# Title\n\n---\n\nText here.", ["# Title", "Text here."]),
        ("", []),
        (" \n ", []),
    ],
)
def test_sentences_of(passage, expected):
    assert [sentence.text for sentence in split_sentences(passage)] == expected
