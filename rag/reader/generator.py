"""The reader as a generator, and what it shares with any other whose text is words of a passage."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator

import numpy as np

from ..generation import NO_ANSWER, Excerpt, Source, Task
from ..states import States
from .confidence import Calibration, Candidate
from .decode import Span, best_spans
from .reading import Reading

_FACT = re.compile(
    r"\b(?:who|whom|whose|when|where|which|what|name|"
    r"how (?:many|much|long|old|far|often|big|large|high|tall|fast|deep))\b",
    re.IGNORECASE,
)
_ADVICE = re.compile(r"\b(?:i|we|my|our|you|your|should|how to)\b", re.IGNORECASE)


class PointingGenerator(ABC):
    """Answers in the passages' own words, as one place of them; threads may share it.

    Attributes:
        name: what to call it.
        calibration: how sure is sure enough.
    """

    name: str
    calibration: Calibration

    @abstractmethod
    def candidates(self, task: Task) -> list[Candidate]:
        """Places that may answer; what was read is set in the task's meter."""

    def generate(self, task: Task) -> Iterator[str | Excerpt]:
        """Yield the place that is most likely right, nothing where it is not sure, or `NO_ANSWER`."""
        if not wants_words(task.question):
            return
        candidates = self.candidates(task)
        chances = self.calibration.probabilities(candidates) if candidates else np.zeros(1)
        task.meter.confidence = float(chances.max())
        if not candidates or chances.max() < self.calibration.threshold:
            yield NO_ANSWER
        elif chances.max() >= self.calibration.sure:
            best = candidates[int(chances.argmax())]
            yield Excerpt(best.source, best.start_char, best.end_char)


class ReaderGenerator(PointingGenerator):
    """Points at the best span of each passage, from cached states: it never reads their text again."""

    name = "reader"

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self.calibration = reading.trained.calibration

    def candidates(self, task: Task) -> list[Candidate]:
        """The best span of each source, in the order of the sources."""
        done = self._reading.read(task.query, [source.hit.chunk for source in task.sources], task.tenant)
        task.meter.usage = done.usage
        if not done.rows:
            return []
        spans = best_spans(done.starts, done.ends)
        sources = [task.sources[row] for row in done.rows]
        return [candidate(*found) for found in zip(sources, done.states, spans, strict=True)]


def wants_words(question: str) -> bool:
    """Whether a few words can answer: who, when, how many; not how to, why, or what one should do."""
    return bool(_FACT.search(question)) and not _ADVICE.search(question)


def candidate(source: Source, states: States, span: Span) -> Candidate:
    """A span of a source's tokens as text, with the strength of the sentence it stands in."""
    start, end = int(states.offsets[span.first, 0]), int(states.offsets[span.last, 1])
    raw = source.text[start:end]
    start += len(raw) - len(raw.lstrip())
    end = start + len(trimmed(raw.strip()))
    place = source.hit.chunk.start_char
    inside = [q.score for q in source.quotes if q.start_char < place + end and q.end_char > place + start]
    # Quotes are the sentences that come near the strongest; any other is weaker than the weakest of them.
    return Candidate(source, start, end, span, max(inside, default=min(q.score for q in source.quotes) - 1))


def trimmed(text: str) -> str:
    """Without the punctuation that shares a token with the last word: `2008,` or `Title".`; still verbatim."""
    opened = {")": "(", "]": "[", '"': '"', "”": "“"}
    while text and (text[-1] in ",;:" or (text[-1] == "." and text[:-1].count(".") == 0)):
        text = text[:-1]
    if text and text[-1] in opened and opened[text[-1]] not in text[:-1]:
        text = text[:-1]
    return text
