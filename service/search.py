"""A store behind the doors: queries go through the encoder's queue, the store is read and written on threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..embedder import Embeddings
from ..index import Document, Hit, Searcher, Store
from ..index.batches import index_documents
from ..index.errors import QueryError
from ..index.modes import needed, parse_mode
from .caller import Caller
from .engine import EmbedOptions, Encoded
from .errors import DeadlineExceeded, EmptyInput, Overloaded, UnknownName
from .metrics import Metrics
from .models import ServedModel
from .queue import Priority
from .queued_encoder import Errand, QueuedEncoder, embeddings_of, on_errand

T = TypeVar("T")
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
    router_weight: float = 1.0


@dataclass(frozen=True)
class Found:
    """Hits, best first, and where the time went."""

    hits: list[Hit]
    tokenize_seconds: float = 0.0
    queue_seconds: float = 0.0
    encode_seconds: float = 0.0


@dataclass(frozen=True)
class Written:
    """What came of documents that were sent: how many were stored, and how many were there already."""

    stored: int
    unchanged: int


class SearchService:
    """One store, searched and written with the model that made it.

    Attributes:
        name: what clients call it.
        model: its vectors'.
        encoder: the model for worker threads: its texts go through the queue.
    """

    def __init__(
        self,
        folder: Path,
        model: ServedModel,
        metrics: Metrics,
        *,
        loop: asyncio.AbstractEventLoop,
        name: str = "",
        writable: bool = False,
    ) -> None:
        """Open the store, and create it if it is writable and absent; raises the index's StoreError."""
        self.name = name or folder.name
        self.model = model
        self.encoder = QueuedEncoder(model, loop)
        self.store = Store.open(folder, encoder=self.encoder, read_only=not writable, create=writable)
        self._searcher = Searcher(self.store, self.encoder)
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(_THREADS, "search")
        self._writer = ThreadPoolExecutor(1, "write")
        self._running = 0
        metrics.index_chunks.labels(self.name).set_function(lambda: float(len(self.store.snapshot())))

    async def search(self, query: Query, caller: Caller) -> Found:
        """Find the passages that answer a query.

        Raises:
            QueryError, FilterError: see `Searcher.search`.
            ServiceError: see `ServedModel.embed`; Overloaded also where too many searches wait.
        """
        if not query.text.strip():
            raise QueryError("the query is empty: say what to look for")
        stages = (0.0, 0.0, 0.0)
        vectors: Embeddings | None = None
        if wanted := needed(parse_mode(query.mode, self.store.meta.layout)):
            options = EmbedOptions(kind="query", outputs=wanted)
            embedded = await self.model.embed([query.text], options, caller, Priority.QUERY)
            [item] = embedded.items
            if not isinstance(item, Encoded):
                raise item
            vectors = embeddings_of([item], options, self.model)
            stages = (embedded.tokenize_seconds, embedded.queue_seconds, embedded.encode_seconds)
        hits = await self.on_thread(lambda: self._look_up(query, vectors), caller)
        return Found(hits, *stages)

    async def document(self, doc_id: str, caller: Caller) -> Document:
        """Return a document as it was stored; raises UnknownName."""
        try:
            return await self.on_thread(lambda: self.store.document(doc_id), caller)
        except KeyError:
            raise UnknownName(f"there is no document {doc_id[:200]!r} in the store {self.name}") from None

    async def write(self, documents: Sequence[Document], caller: Caller) -> Written:
        """Cut, encode and store documents, each in place of what its id held; durable when this returns.

        Raises:
            EmptyInput: a document without text.
            BatchError: an id twice.
            StoreLocked: another process is writing; it may be tried again.
        """
        if empty := [document.doc_id for document in documents if not document.text.strip()]:
            raise EmptyInput(f"document {empty[0][:200]!r} has no text: leave it out, or delete it")
        errand = Errand(caller, Priority.BULK)

        def work() -> int:
            with on_errand(errand):
                return index_documents(self.store, self.encoder, documents)

        try:
            stored = await asyncio.get_running_loop().run_in_executor(self._writer, work)
        except asyncio.CancelledError:
            errand.abandon()
            raise
        for result, count in (("stored", stored), ("unchanged", len(documents) - stored)):
            self._metrics.documents.labels(self.name, result).inc(count)
        return Written(stored, len(documents) - stored)

    async def delete(self, doc_ids: Sequence[str]) -> int:
        """Remove documents; returns how many there were."""
        loop = asyncio.get_running_loop()
        removed = await loop.run_in_executor(self._writer, lambda: self.store.delete(doc_ids))
        self._metrics.documents.labels(self.name, "removed").inc(removed)
        return removed

    async def keep_only(self, doc_ids: set[str], prefix: str) -> int:
        """Remove the documents whose id begins with `prefix` and is not one of `doc_ids`; returns how many."""
        known = await asyncio.get_running_loop().run_in_executor(self._writer, self.store.documents)
        return await self.delete([doc_id for doc_id in known if doc_id.startswith(prefix) and doc_id not in doc_ids])

    def close(self) -> None:
        """Let go of the store; nothing may be searched afterwards."""
        self._threads.shutdown()
        self._writer.shutdown()
        self.store.close()

    def _look_up(self, query: Query, vectors: Embeddings | None) -> list[Hit]:
        began = time.perf_counter()
        [hits] = self._searcher.search_many(
            [query.text],
            mode=query.mode,
            k=query.k,
            filter=query.filter,
            exact=query.exact,
            router_weight=query.router_weight,
            vectors=vectors,
        )
        self._metrics.search_seconds.labels(query.mode).observe(time.perf_counter() - began)
        return hits

    async def on_thread(self, look_up: Callable[[], T], caller: Caller) -> T:
        """Read the store on a thread, on the caller's behalf and no longer than it allows.

        Raises:
            Overloaded: too many wait for a thread.
            DeadlineExceeded: the caller's time is over.
        """
        if self._running >= _WAITING:
            self._metrics.dropped.labels("overloaded").inc()
            raise Overloaded(f"{self._running} searches are waiting, no more are taken: try again later", 0.5)
        self._running += 1
        errand = Errand(caller, Priority.QUERY)

        def work() -> T:
            with on_errand(errand):
                return look_up()

        try:
            async with asyncio.timeout_at(caller.deadline):
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            self._metrics.dropped.labels("expired").inc()
            raise DeadlineExceeded(
                "the search took longer than was allowed: allow more, or search with k smaller"
            ) from None
        finally:
            errand.abandon()
            self._running -= 1
