"""The nouns of an answer: what was cited, and what was said."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Citation:
    """A verbatim passage of a stored document that an answer rests on.

    Offsets count Unicode code points, as Python does; `store.text(doc_id)[start_char:end_char] == text` has been
    checked before a citation leaves this package (Anthropic's `char_location` carries the same facts).

    Attributes:
        number: from 1, what `[1]` in the answer's text refers to.
        score: how far above the store's ordinary passages the sentence is, in standard deviations.
    """

    number: int
    doc_id: str
    path: str
    title: str
    start_char: int
    end_char: int
    text: str
    score: float


@dataclass(frozen=True)
class Answer:
    """What the documents say to a question.

    Attributes:
        question: as it was asked.
        text: the answer, with `[n]` behind what citation n supports; says so where nothing was found.
        citations: in the order of their numbers, verified.
        grounded: whether the evidence was strong enough to answer from.
    """

    question: str
    text: str
    citations: tuple[Citation, ...]
    grounded: bool
