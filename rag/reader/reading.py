"""A trained reader over the states of a store's passages, which are cached: it never reads their text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...embedder.encoder import Encoder
from ...index.documents import Chunk
from ..answer import Usage
from ..context_cache import ContextCache
from ..states import States, encode_states
from .adapter import SHIPPED, TrainedReader
from .batch import pad, read


@dataclass(frozen=True)
class Read:
    """What a reader makes of a question and N passages.

    Attributes:
        rows: (R,) the passages that have tokens, as indices of those asked for; the others are left out below.
        states: their states.
        starts, ends: (R, T + 1) logits of first and last tokens, see `SpanReader.forward`.
        usage: tokens read.
    """

    rows: list[int]
    states: list[States]
    starts: Tensor
    ends: Tensor
    usage: Usage


class Reading:
    """A reader, its encoder and the cache of passages; threads may share it."""

    def __init__(self, encoder: Encoder, trained: TrainedReader, cache: ContextCache) -> None:
        self._encoder = encoder
        self.trained = trained
        self.cache = cache

    @classmethod
    def load(cls, encoder: Encoder, cache: ContextCache, folder: Path | None = None) -> Reading:
        """Load a reader's folder; None for the one that ships for decant-mini. Raises as `TrainedReader.load`."""
        return cls(encoder, TrainedReader.load(folder or SHIPPED, encoder), cache)

    @torch.inference_mode()
    def read(self, query: str, chunks: Sequence[Chunk], tenant: str) -> Read:
        """Ask passages a question, all at once; no rows where nothing is to be read."""
        states, cached = self.cache.get(chunks, tenant)
        [asked] = encode_states(self._encoder, [" ".join(query.split())], "query")
        usage = Usage(sum(map(len, states)) + len(asked), cached, 0)
        rows = [i for i, own in enumerate(states) if len(own)] if len(asked) else []
        readable = [states[i] for i in rows]
        if not rows:
            nothing = torch.zeros(0, 1)
            return Read(rows, readable, nothing, nothing, usage)
        pairs = pad(readable, [asked] * len(rows), list(range(len(rows))))
        return Read(rows, readable, *read(self.trained.reader, pairs.to(self._encoder.backbone.device)), usage)
