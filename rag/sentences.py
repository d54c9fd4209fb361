"""Sentences of a passage, verbatim, each with its place; segmentation by sentencex (Wikimedia, rule-based)."""

from __future__ import annotations

from dataclasses import dataclass

import sentencex


@dataclass(frozen=True)
class Sentence:
    """`passage[start_char:end_char] == text`; no white space at either end."""

    start_char: int
    end_char: int
    text: str


def split_sentences(passage: str, language: str = "en") -> list[Sentence]:
    """Cut a passage into sentences; what holds no letter or digit is left out.

    Raises:
        RuntimeError: if the segmenter gave back something that is not the passage's text.
    """
    found: list[Sentence] = []
    position = 0
    pieces: list[str] = sentencex.segment(language, passage)  # pyright: ignore[reportAttributeAccessIssue]  (in Rust)
    for piece in pieces:
        start = passage.find(piece, position)
        if start < 0:
            raise RuntimeError(f"the sentence segmenter changed the text near character {position}")
        position = start + len(piece)
        text = piece.strip()
        if any(letter.isalnum() for letter in text):
            begin = start + piece.index(text)
            found.append(Sentence(begin, begin + len(text), text))
    return found
