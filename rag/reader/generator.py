"""The reader as a generator: its text is the words of the passage that it points at, from cached states alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from ...embedder.encoder import Encoder
from ..answer import Usage
from ..context_cache import ContextCache
from ..generation import NO_ANSWER, Excerpt, Source, Task
from ..states import States, encode_states
from .adapter import SHIPPED, TrainedReader
from .batch import pad, read
from .confidence import Candidate
from .decode import Span, best_spans

_FACT = re.compile(
    r"\b(?:who|whom|whose|when|where|which|what|name|"
    r"how (?:many|much|long|old|far|often|big|large|high|tall|fast|deep))\b",
    re.IGNORECASE,
)
_ADVICE = re.compile(r"\b(?:i|we|my|our|you|your|should|how to)\b", re.IGNORECASE)


class ReaderGenerator:
    """Answers in the passages' own words, without reading their text again; threads may share it."""

    def __init__(self, encoder: Encoder, trained: TrainedReader, cache: ContextCache) -> None:
        self._encoder = encoder
        self._trained = trained
        self.cache = cache

    @classmethod
    def load(cls, encoder: Encoder, cache: ContextCache, folder: Path | None = None) -> ReaderGenerator:
        """Load a reader's folder; None for the one that ships for decant-mini. Raises as `TrainedReader.load`."""
        return cls(encoder, TrainedReader.load(folder or SHIPPED, encoder), cache)

    @property
    def name(self) -> str:
        """What to call it."""
        return "reader"

    def generate(self, task: Task) -> Iterator[str | Excerpt]:
        """Yield the span that is most likely right, nothing where it is not sure, or `NO_ANSWER`."""
        if not wants_words(task.question):
            return
        calibration = self._trained.calibration
        candidates = self.candidates(task)
        chances = calibration.probabilities(candidates) if candidates else np.zeros(1)
        task.meter.confidence = float(chances.max())
        if not candidates or chances.max() < calibration.threshold:
            yield NO_ANSWER
        elif chances.max() >= calibration.sure:
            best = candidates[int(chances.argmax())]
            yield Excerpt(best.source, best.start_char, best.end_char)

    @torch.inference_mode()
    def candidates(self, task: Task) -> list[Candidate]:
        """The best span of each source, in the order of the sources."""
        states, cached = self.cache.get([source.hit.chunk for source in task.sources], task.tenant)
        [asked] = encode_states(self._encoder, [" ".join(task.query.split())], "query")
        readable = [(s, own) for s, own in zip(task.sources, states, strict=True) if len(own)]
        task.meter.usage = Usage(sum(map(len, states)) + len(asked), cached, 0)
        if not readable or not len(asked):
            return []
        count = len(readable)
        pairs = pad([own for _, own in readable], [asked] * count, list(range(count)))
        pairs = pairs.to(self._encoder.backbone.device)
        spans = best_spans(*read(self._trained.reader, pairs))
        return [_candidate(source, own, span) for (source, own), span in zip(readable, spans, strict=True)]


def wants_words(question: str) -> bool:
    """Whether a few words can answer: who, when, how many; not how to, why, or what one should do."""
    return bool(_FACT.search(question)) and not _ADVICE.search(question)


def _candidate(source: Source, states: States, span: Span) -> Candidate:
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
