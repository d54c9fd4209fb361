"""The reader as a generator: its text is the words of the passage that it points at, found from cached states.

Where a verifier was trained for it, what the reader would answer is read again, question and passage together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...embedder.encoder import Encoder
from ..answer import Usage
from ..context_cache import ContextCache
from ..generation import NO_ANSWER, Excerpt, Source, Task
from ..states import States, encode_states
from ..verifier.adapter import Verifier
from .adapter import SHIPPED, TrainedReader
from .batch import pad, read
from .confidence import Candidate
from .decode import Span, best_spans

VERIFIER = "verifier"
# How many of the reader's candidates a verifier reads.
READ_AGAIN = 4
_FACT = re.compile(
    r"\b(?:who|whom|whose|when|where|which|what|name|"
    r"how (?:many|much|long|old|far|often|big|large|high|tall|fast|deep))\b",
    re.IGNORECASE,
)
_ADVICE = re.compile(r"\b(?:i|we|my|our|you|your|should|how to)\b", re.IGNORECASE)


class ReaderGenerator:
    """Answers in the passages' own words; threads may share it."""

    def __init__(
        self, encoder: Encoder, trained: TrainedReader, cache: ContextCache, verifier: Verifier | None = None
    ) -> None:
        self._encoder = encoder
        self._trained = trained
        self._verifier = verifier
        self.cache = cache

    @classmethod
    def load(cls, encoder: Encoder, cache: ContextCache, folder: Path | None = None) -> ReaderGenerator:
        """Load a reader's folder, and the verifier in it if there is one; None for what ships for decant-mini.

        Raises as `TrainedReader.load`.
        """
        folder = folder or SHIPPED
        trained = TrainedReader.load(folder, encoder)
        second = folder / VERIFIER
        return cls(encoder, trained, cache, Verifier.load(second, encoder) if second.is_dir() else None)

    @property
    def name(self) -> str:
        """What to call it."""
        return "reader"

    def generate(self, task: Task) -> Iterator[str | Excerpt]:
        """Yield the span that is most likely right, nothing where it is not sure, or `NO_ANSWER`."""
        if not wants_words(task.question):
            return
        calibration = (self._verifier or self._trained).calibration
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
        """The best span of each source, in the order of the sources; with a verifier, those it has read."""
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
        found = [_candidate(source, own, span) for (source, own), span in zip(readable, spans, strict=True)]
        if self._verifier is None:
            return found
        chosen = sorted(np.argsort([-candidate.span.score for candidate in found])[:READ_AGAIN].tolist())
        again = self._verifier.spans(asked, [(readable[i][1], spans[i].first, spans[i].last) for i in chosen])
        return [
            replace(_candidate(found[i].source, readable[i][1], span), span=spans[i], again=span)
            for i, span in zip(chosen, again, strict=True)
        ]


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
