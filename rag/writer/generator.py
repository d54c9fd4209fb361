"""The writer as a generator: it reads the cached states of all sources at once, and writes in their words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ...embedder.encoder import Encoder
from ..answer import Usage
from ..context_cache import ContextCache
from ..generation import Task
from ..reader.confidence import Candidate
from ..reader.decode import Span
from ..reader.generator import PointingGenerator, candidate
from ..states import encode_states
from .adapter import SHIPPED, TrainedWriter
from .lit import light
from .search import write


class CopyGenerator(PointingGenerator):
    """Writes from cached states what stands in the passages; threads may share it."""

    name = "xc"

    def __init__(self, encoder: Encoder, trained: TrainedWriter, cache: ContextCache) -> None:
        """Put the parts together; `cache` is of the encoder's states."""
        self._encoder, self._trained = encoder, trained
        self.calibration = trained.calibration
        self.cache = cache

    @classmethod
    def load(cls, encoder: Encoder, cache: ContextCache, folder: Path | None = None) -> CopyGenerator:
        """Load a writer's folder; None for the one that ships for decant-mini. Raises as `TrainedWriter.load`."""
        return cls(encoder, TrainedWriter.load(folder or SHIPPED, encoder), cache)

    @torch.inference_mode()
    def candidates(self, task: Task) -> list[Candidate]:
        """The likeliest answers, the best first, each at the place that it most likely was taken from."""
        chunks = [source.hit.chunk for source in task.sources[: self._trained.passages]]
        states, cached = self.cache.get(chunks, task.tenant)
        [asked] = encode_states(self._encoder, [" ".join(task.query.split())], "query")
        rows = [i for i, own in enumerate(states) if len(own)] if len(asked) else []
        read = sum(map(len, states)) + len(asked)
        task.meter.usage = Usage(read, cached, 0)
        if not rows:
            return []
        readable = [states[i] for i in rows]
        writer = self._trained.writer
        runs, none = write(writer, light(writer.reader, [asked], [readable]), asked.ids.tolist())
        task.meter.usage = Usage(read, cached, len(runs[0].words))
        ends = np.cumsum([len(own) for own in readable])
        found: list[Candidate] = []
        for run in runs:
            row = int(np.searchsorted(ends, run.last, side="right"))
            begin = int(ends[row]) - len(readable[row])
            odds = run.log_probability - none
            span = Span(run.first - begin, run.last - begin, odds, float(np.exp(run.log_probability)))
            found.append(candidate(task.sources[rows[row]], readable[row], span))
        return [one for one in found if one.text]  # of punctuation alone nothing is left
