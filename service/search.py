"""Search behind the doors: the query goes through the encoder's queue, the store is read on threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..index import Hit, Searcher, Store
from ..index.errors import QueryError
from .caller import Caller
from .engine import EmbedOptions, Encoded
from .errors import DeadlineExceeded, Overloaded
from .metrics import Metrics
from .models import ServedModel
from .queue import Priority

_THREADS = 2
# Searches that may wait for a thread; each takes milliseconds.
_WAITING = 256


@dataclass(frozen=True)
class Query:
    """One question; fields as the arguments of `Searcher.search`."""

    text: str
    mode: str = "hybrid"
    k: int = 10
    filter: str | None = None
    exact: bool = False


@dataclass(frozen=True)
class Found:
    """Hits, best first, and where the time went."""

    hits: list[Hit]
    tokenize_seconds: float = 0.0
    queue_seconds: float = 0.0
    encode_seconds: float = 0.0


class SearchService:
    """One store, searched with the model that made it."""

    def __init__(self, folder: Path, model: ServedModel, metrics: Metrics) -> None:
        """Open the store for reading; raises the index's StoreError."""
        self.model = model
        self.store = Store.open(folder, encoder=model.encoder, read_only=True)
        self._searcher = Searcher(self.store, model.encoder)
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(_THREADS, "search")
        self._running = 0
        metrics.index_chunks.labels(folder.name).set_function(lambda: float(len(self.store.snapshot())))

    async def search(self, query: Query, caller: Caller) -> Found:
        """Find the passages that answer a query.

        Raises:
            QueryError, FilterError: see `Searcher.search`.
            ServiceError: see `ServedModel.embed`; Overloaded also where too many searches wait.
        """
        if not query.text.strip():
            raise QueryError("the query is empty: say what to look for")
        stages = (0.0, 0.0, 0.0)
        vectors: NDArray[np.float32] | None = None
        if query.mode != "lexical":
            embedded = await self.model.embed([query.text], EmbedOptions(kind="query"), caller, Priority.QUERY)
            [item] = embedded.items
            if not isinstance(item, Encoded):
                raise item
            vectors = item.vector[None]
            stages = (embedded.tokenize_seconds, embedded.queue_seconds, embedded.encode_seconds)
        hits = await self._on_thread(lambda: self._look_up(query, vectors), caller)
        return Found(hits, *stages)

    def close(self) -> None:
        """Let go of the store; nothing may be searched afterwards."""
        self._threads.shutdown()
        self.store.close()

    def _look_up(self, query: Query, vectors: NDArray[np.float32] | None) -> list[Hit]:
        began = time.perf_counter()
        [hits] = self._searcher.search_many(
            [query.text], mode=query.mode, k=query.k, filter=query.filter, exact=query.exact, vectors=vectors
        )
        self._metrics.search_seconds.labels(query.mode).observe(time.perf_counter() - began)
        return hits

    async def _on_thread(self, look_up: Callable[[], list[Hit]], caller: Caller) -> list[Hit]:
        if self._running >= _WAITING:
            self._metrics.dropped.labels("overloaded").inc()
            raise Overloaded(f"{self._running} searches are waiting, no more are taken: try again later", 0.5)
        self._running += 1
        try:
            async with asyncio.timeout_at(caller.deadline):
                return await asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        except TimeoutError:
            self._metrics.dropped.labels("expired").inc()
            raise DeadlineExceeded(
                "the search took longer than was allowed: allow more, or search with k smaller"
            ) from None
        finally:
            self._running -= 1
