"""The nouns of an answer: what was cited, what was said, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Message:
    """One earlier turn of a conversation."""

    role: Literal["user", "assistant"]
    text: str


@dataclass(frozen=True)
class Citation:
    """A verbatim passage of a stored document that an answer rests on.

    Offsets count Unicode code points, as Python does; `store.text(doc_id)[start_char:end_char] == text` has been
    checked before a citation leaves this package (Anthropic's `char_location` carries the same facts).

    Attributes:
        number: from 1, what `[1]` in the answer's text refers to.
        score: how far above the store's ordinary passages the sentence is, in standard deviations; of a quotation
            with the parts of its passage's rank and of the judge, see `AnswerRules`.
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
class Usage:
    """What a generator and the judge of quotations read and wrote, in tokens; zeros where there was neither.

    Attributes:
        prompt_tokens: tokens of question, history and passages, those read from a cache included.
        cached_tokens: those of them that a cache supplied.
        completion_tokens: tokens written.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True)
class Answer:
    """What the documents say to a question.

    Attributes:
        question: as it was asked.
        text: the answer, with `[n]` behind what citation n supports; says so where nothing was found.
        citations: in the order of their numbers, verified.
        grounded: whether the evidence was strong enough to answer from.
        query: what was searched for: the question, with what it takes from the conversation before it.
        generator: who wrote the text; `evidence` where it is made of quotations.
        note: why the generator's text was not used, where one was asked; else empty.
        dropped: sentences of the generator that the documents do not support; they are not in `text` unless the
            rules say to mark them.
        usage: tokens read and written.
        confidence: probability that what the generator would answer is right, also where it is not what was said; None
            where it was not asked or does not know.
    """

    question: str
    text: str
    citations: tuple[Citation, ...]
    grounded: bool
    query: str = ""
    generator: str = "evidence"
    note: str = ""
    dropped: tuple[str, ...] = ()
    usage: Usage = Usage()
    confidence: float | None = None
