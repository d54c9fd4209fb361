"""The seam between finding and writing: what a generator is given, and what it must do.

A generator only writes. Which passages it may read is decided before it, and what of its text may leave, after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..index.documents import Hit
from .answer import Message, Usage
from .evidence import Evidence

NO_ANSWER = "There is no answer to this in these documents."


@dataclass(frozen=True)
class Source:
    """One passage that a generator may read.

    Attributes:
        number: from 1; a generator that names its sources writes `[number]` behind what it takes from one.
        hit: the passage with its place.
        quotes: its sentences that speak to the question, in the order of the text; never empty.
    """

    number: int
    hit: Hit
    quotes: tuple[Evidence, ...]

    @property
    def text(self) -> str:
        """The whole passage."""
        return self.hit.chunk.text


@dataclass(frozen=True)
class Excerpt:
    """A part of an answer that was copied, by its place in a source's text: it is cited there, nothing is looked for.

    Attributes:
        start_char, end_char: in `source.text`.
    """

    source: Source
    start_char: int
    end_char: int

    @property
    def text(self) -> str:
        """The words, on one line."""
        return " ".join(self.source.text[self.start_char : self.end_char].split())


class Meter:
    """Collects what a generator read and wrote, and how sure it is, while it writes; one for each task.

    Attributes:
        usage: tokens.
        confidence: see `Answer`; None for a generator that does not know.
    """

    def __init__(self) -> None:
        self.usage = Usage()
        self.confidence: float | None = None


@dataclass(frozen=True)
class Task:
    """What there is to write.

    Attributes:
        question: as it was asked.
        query: the question with what it takes from the conversation; equal to it at the start of one.
        sources: passages, the best first.
        history: earlier turns, oldest first.
        tenant: on whose behalf; nothing cached for one tenant serves another.
        max_tokens: the most tokens to write.
        meter: where the generator says what it used.
    """

    question: str
    query: str
    sources: tuple[Source, ...]
    history: tuple[Message, ...] = ()
    tenant: str = ""
    max_tokens: int = 256
    meter: Meter = field(default_factory=Meter)


class Judge(Protocol):
    """Tells which of the sentences that speak of a matter answer the question; threads may share it."""

    def odds(self, task: Task, found: Sequence[Evidence]) -> NDArray[np.float64]:
        """(N,) log-odds that each sentence holds the answer, in nats; zeros where it cannot tell."""
        ...


class Generator(Protocol):
    """Writes an answer from passages; threads may share it.

    `NO_ANSWER` means that the passages do not answer the question; no text at all, that the generator is not sure:
    the documents are quoted then.
    """

    @property
    def name(self) -> str:
        """What to call it in answers and logs."""
        ...

    def generate(self, task: Task) -> Iterator[str | Excerpt]:
        """Yield the answer in pieces of any size, or excerpts; closing the iterator early frees all it holds.

        Raises:
            GeneratorError: it cannot write, or not go on; one line that says what to do.
        """
        ...
