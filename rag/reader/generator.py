"""The reader as a generator: its text is the words of the passage that it points at, from cached states alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from ...embedder.encoder import Encoder
from ..answer import Usage
from ..context_cache import ContextCache
from ..generation import NO_ANSWER, Source, Task
from ..states import encode_states
from .adapter import SHIPPED, TrainedReader
from .batch import pad, read
from .decode import best_spans


@dataclass(frozen=True)
class Candidate:
    """The best span of one source.

    Attributes:
        text: verbatim.
        score: log-odds against no answer, with what the passage's evidence adds.
    """

    source: Source
    text: str
    score: float


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

    def generate(self, task: Task) -> Iterator[str]:
        """Yield the best span with its source's number, nothing where it is not sure, or `NO_ANSWER`."""
        calibration = self._trained.calibration
        candidates = self.candidates(task)
        best = max(candidates, key=lambda c: c.score, default=None)
        if best is None or best.score < calibration.threshold:
            yield NO_ANSWER
        elif best.score >= calibration.sure:
            yield f"{best.text} [{best.source.number}]"

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
        weight = self._trained.calibration.evidence_weight
        found: list[Candidate] = []
        for (source, own), span in zip(readable, spans, strict=True):
            text = source.text[own.offsets[span.first, 0] : own.offsets[span.last, 1]].strip()
            evidence = max(quote.score for quote in source.quotes)
            found.append(Candidate(source, _trimmed(text), span.score + weight * evidence))
        return found


def _trimmed(text: str) -> str:
    """Without the punctuation that shares a token with the last word: `2008,` or `Title".`; still verbatim."""
    opened = {")": "(", "]": "[", '"': '"', "”": "“"}
    while text and (text[-1] in ",;:" or (text[-1] == "." and text[:-1].count(".") == 0)):
        text = text[:-1]
    if text and text[-1] in opened and opened[text[-1]] not in text[:-1]:
        text = text[:-1]
    return text
