"""Sentences of a passage, verbatim, each with its place; segmentation by sentencex (Wikimedia, rule-based)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sentencex

from ..index.documents import MARKDOWN_MEDIA
from .markup import blocks

_EMPHASIS = ("**", "__")


@dataclass(frozen=True)
class Sentence:
    """`passage[start_char:end_char] == text`; no white space at either end.

    Attributes:
        prose: false of front matter, headings, table rows and code.
    """

    start_char: int
    end_char: int
    text: str
    prose: bool = True


def split_sentences(passage: str, media: str = "text", language: str = "en", *, fence: str = "") -> list[Sentence]:
    """Cut a passage into sentences; what holds no letter or digit is left out.

    Args:
        passage: any part of a document.
        media: what the document is, see `Document.media`; a sentence stays within one block of its markup.
        language: whose rules for abbreviations hold.
        fence: of the code that a passage of Markdown begins in the middle of, see `open_fence`.

    Raises:
        RuntimeError: if the segmenter gave back something that is not the passage's text.
    """
    found: list[Sentence] = []
    for block in blocks(passage, media, fence):
        text = passage[block.start_char : block.end_char]
        for start, end in _cuts(text, language):
            begin, stop = block.start_char + start, block.start_char + end
            if media in MARKDOWN_MEDIA and block.prose:
                begin, stop = _emphasis_left_out(passage, begin, stop)
            found.append(Sentence(begin, stop, passage[begin:stop], block.prose))
    return found


def _emphasis_left_out(passage: str, start: int, end: int) -> tuple[int, int]:
    """Without the mark at an edge whose other half is in another sentence."""
    for mark in _EMPHASIS:
        if passage.count(mark, start, end) % 2:
            if passage.startswith(mark, start, end):
                start += len(mark)
            elif passage.endswith(mark, start, end):
                end -= len(mark)
    text = passage[start:end]
    return end - len(text.lstrip()), start + len(text.rstrip())


def _cuts(text: str, language: str) -> Iterator[tuple[int, int]]:
    position = 0
    pieces: list[str] = sentencex.segment(language, text)  # pyright: ignore[reportAttributeAccessIssue]  (in Rust)
    for piece in pieces:
        start = text.find(piece, position)
        if start < 0:
            raise RuntimeError(f"the sentence segmenter changed the text near character {position}")
        position = start + len(piece)
        if any(letter.isalnum() for letter in piece):
            begin = start + len(piece) - len(piece.lstrip())
            yield begin, begin + len(piece.strip())
