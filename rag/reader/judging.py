"""The reader as a judge of sentences: which of those that speak of the matter hold the answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..evidence import Evidence
from ..generation import Task
from .decode import span_odds
from .generator import wants_words
from .reading import Reading

# Nats; a reader of this size is never as sure as its logits say.
_MOST = 12.0


class ReaderJudge:
    """Log-odds that a sentence holds the answer, against its passage holding none; threads may share it."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading

    def odds(self, task: Task, found: Sequence[Evidence]) -> NDArray[np.float64]:
        """(N,) of the sentences, from -12 to 12; zeros where no few words answer the question, see `wants_words`."""
        odds = np.zeros(len(found))
        if not wants_words(task.question):
            return odds
        hits = {id(evidence.hit): evidence.hit for evidence in found}
        done = self._reading.read(task.query, [hit.chunk for hit in hits.values()], task.tenant)
        task.meter.usage += done.usage  # to that of a generator that was asked before
        ids = list(hits)
        place = {ids[row]: i for i, row in enumerate(done.rows)}
        asked: list[tuple[int, int, int]] = []
        which: list[int] = []
        for number, evidence in enumerate(found):
            if (row := place.get(id(evidence.hit))) is None:
                continue
            offsets, sentence = done.states[row].offsets, evidence.sentence
            inside = np.flatnonzero((offsets[:, 0] >= sentence.start_char) & (offsets[:, 1] <= sentence.end_char))
            if len(inside):
                asked.append((row, int(inside[0]), int(inside[-1])))
                which.append(number)
        odds[which] = np.clip(span_odds(done.starts, done.ends, asked), -_MOST, _MOST)
        return odds
