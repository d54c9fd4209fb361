"""An encoder for worker threads whose every text goes through the server's one queue.

Answering and indexing are written against the small `Encoder` protocol of the index. Handed the real encoder they would
compute beside the queue: unbounded, unfair, uncounted. This one looks the same, and waits its turn.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array
from tokenizers import Tokenizer

from ..embedder import Embeddings
from ..embedder.tokenization import Truncate
from .caller import Caller
from .engine import DENSE, SPARSE, EmbedOptions, Encoded, SparseVector
from .errors import Unavailable
from .models import Embedded, ServedModel
from .queue import Priority


class Errand:
    """What a worker thread does for one call; `abandon` ends it at its next text."""

    def __init__(self, caller: Caller, priority: Priority) -> None:
        self.caller = caller
        self.priority = priority
        self._lock = threading.Lock()
        self._abandoned = False
        self._running: Future[Embedded] | None = None

    @property
    def abandoned(self) -> bool:
        """Whether whoever asked has gone."""
        return self._abandoned

    def abandon(self) -> None:
        """Whoever asked has gone: what waits in the queue is taken out."""
        with self._lock:
            self._abandoned = True
            if self._running is not None:
                self._running.cancel()

    def wait_for(self, submit: Any) -> Embedded:
        """Run a coroutine on the server's loop and wait for it; raises Unavailable once abandoned."""
        with self._lock:
            if self._abandoned:
                raise Unavailable("the caller has gone")
            self._running = submit()
            running = self._running
        assert running is not None
        return running.result()


_errand: ContextVar[Errand | None] = ContextVar("errand", default=None)


@contextmanager
def on_errand(errand: Errand) -> Generator[None]:
    """Let this thread's texts be those of a call, for the length of the block."""
    token = _errand.set(errand)
    try:
        yield
    finally:
        _errand.reset(token)


class QueuedEncoder:
    """One served model as the index's `Encoder`; call `encode` on worker threads only, never on the event loop."""

    def __init__(self, model: ServedModel, loop: asyncio.AbstractEventLoop) -> None:
        self._model = model
        self._loop = loop

    @property
    def path(self) -> Path:
        """Where the model came from."""
        return self._model.encoder.path

    @property
    def fingerprint(self) -> str:
        """The model's."""
        return self._model.encoder.fingerprint

    @property
    def dimension(self) -> int:
        """The model's."""
        return self._model.encoder.dimension

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's."""
        return self._model.encoder.tokenizer

    @property
    def max_tokens(self) -> int:
        """The model's."""
        return self._model.encoder.max_tokens

    @property
    def outputs(self) -> tuple[str, ...]:
        """The representations that the queue serves."""
        return self._model.encoder.outputs

    @property
    def indexed_outputs(self) -> tuple[str, ...]:
        """What a store holds by default."""
        return self._model.encoder.indexed_outputs

    def encode(
        self,
        texts: Sequence[str],
        *,
        kind: str = "document",
        instruction: str | None = None,
        outputs: Sequence[str] = (DENSE,),
        dimensions: int | None = None,
        truncate: Truncate = "end",
    ) -> Embeddings:
        """Encode texts as `Encoder.encode` does; row i belongs to text i.

        Raises:
            InputError: a text or an option that cannot be honoured.
            ServiceError: the queue is full or closed, or the caller's time is over.
        """
        listed = [texts] if isinstance(texts, str) else list(texts)
        options = EmbedOptions(kind, instruction, dimensions, truncate, outputs=tuple(outputs))
        errand = _errand.get() or Errand(Caller(), Priority.BULK)
        items: list[Encoded] = []
        step = self._model.max_texts
        for start in range(0, len(listed), step):
            part = listed[start : start + step]
            made = errand.wait_for(lambda part=part: self._submit(part, options, errand))
            for item in made.items:
                if not isinstance(item, Encoded):
                    raise item
                items.append(item)
        return embeddings_of(items, options, self._model)

    def _submit(self, texts: list[str], options: EmbedOptions, errand: Errand) -> Future[Embedded]:
        work = self._model.embed(texts, options, errand.caller, errand.priority)
        return asyncio.run_coroutine_threadsafe(work, self._loop)


def embeddings_of(items: Sequence[Encoded], options: EmbedOptions, model: ServedModel) -> Embeddings:
    """Results of the queue as `Encoder.encode` would have returned them."""
    head = model.encoder.head
    width = head.width(options.dimensions)
    dense = np.stack([item.vector for item in items]) if items else np.zeros((0, width), np.float32)
    sparse = [item.sparse for item in items if item.sparse is not None]
    router = [item.router for item in items if item.router is not None]
    return Embeddings(
        tokens=np.array([item.tokens for item in items], np.int32),
        truncated=np.array([item.truncated for item in items], np.bool_),
        dense=dense if DENSE in options.outputs else None,
        sparse=_rows(sparse, model) if SPARSE in options.outputs else None,
        router=np.stack(router) if router else None,
    )


def _rows(vectors: list[SparseVector], model: ServedModel) -> csr_array:
    assert model.encoder.sparse_head is not None
    ends = np.cumsum([0, *(len(vector.terms) for vector in vectors)])
    terms = np.concatenate([vector.terms for vector in vectors]) if vectors else np.zeros(0, np.int32)
    weights = np.concatenate([vector.weights for vector in vectors]) if vectors else np.zeros(0, np.float32)
    return csr_array((weights, terms, ends), shape=(len(vectors), model.encoder.sparse_head.terms))
