"""Questions to answers behind the doors: an `Answerer` per store, on threads, its texts through the encoder's queue."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..rag import Answer, Answerer, Generator, Message
from ..rag.generators.choosing import GeneratorChoice, build_generator, build_judge, reads_states, shipped_reading
from ..rag.reader.reading import Reading
from .caller import Caller
from .errors import DeadlineExceeded, Overloaded
from .metrics import Metrics
from .queue import Priority
from .queued_encoder import Errand, on_errand
from .search import SearchService
from .threads import apart, on_a_thread

_THREADS = 4
# Questions that may wait for a thread.
_WAITING = 64


@dataclass(frozen=True)
class Question:
    """One question; fields as the arguments of `Answerer.stream`.

    Attributes:
        k: passages to read; None for the rules' number.
    """

    text: str
    history: tuple[Message, ...] = ()
    k: int | None = None
    filter: str | None = None


class Asking:
    """Answers questions from stores."""

    def __init__(self, metrics: Metrics, choice: GeneratorChoice | None = None) -> None:
        """Answer with the generator chosen; by quotations if None."""
        self._metrics = metrics
        self._choice = choice or GeneratorChoice()
        self._shared: Generator | None = None
        self._building = threading.Lock()
        self._answerers: dict[int, tuple[SearchService, Answerer]] = {}
        self._threads = ThreadPoolExecutor(_THREADS, "ask")
        self._running = 0

    async def prepare(self, stores: Iterable[SearchService]) -> None:
        """Load the generator, so that one that cannot be used is known before anybody asks.

        Raises:
            GeneratorError: it cannot be loaded, or does not fit a store's model.
        """
        for store in stores:
            await on_a_thread(partial(self._answerer, store))

    async def stream(self, question: Question, store: SearchService, caller: Caller) -> AsyncGenerator[str | Answer]:
        """Yield pieces of the answer's text, then the verified answer.

        When the generator is closed early, the thread's next text is its last.

        Raises:
            AnswerError, FilterError: the question cannot be answered as asked; GeneratorError if the generator fails.
            ServiceError: see `ServedModel.embed`; Overloaded also where too many questions wait.
        """
        if self._running >= _WAITING:
            self._metrics.dropped.labels("overloaded").inc()
            raise Overloaded(f"{self._running} questions are waiting, no more are taken: try again later", 1.0)
        loop = asyncio.get_running_loop()
        pieces: asyncio.Queue[str | Answer | Exception | None] = asyncio.Queue()
        errand = Errand(caller, Priority.QUERY)

        def work() -> None:
            end: Exception | None = None
            try:
                with on_errand(errand):
                    for piece in self._pieces(question, store, caller):
                        if errand.abandoned:
                            break
                        loop.call_soon_threadsafe(pieces.put_nowait, piece)
            except Exception as error:
                end = error
            loop.call_soon_threadsafe(pieces.put_nowait, end)

        self._running += 1
        done = loop.run_in_executor(self._threads, apart, work)
        done.add_done_callback(self._left)
        try:
            async with asyncio.timeout_at(caller.deadline):
                while (piece := await pieces.get()) is not None:
                    if isinstance(piece, Exception):
                        raise piece
                    if isinstance(piece, Answer):
                        self._metrics.citations.inc(len(piece.citations))
                    yield piece
        except TimeoutError:
            self._metrics.dropped.labels("expired").inc()
            raise DeadlineExceeded("the answer took longer than was allowed: allow more") from None
        finally:
            errand.abandon()

    async def answer(self, question: Question, store: SearchService, caller: Caller) -> Answer:
        """The whole answer at once; errors as of `stream`."""
        last: str | Answer | None = None
        async for piece in self.stream(question, store, caller):
            last = piece
        assert isinstance(last, Answer), "the last piece is the answer"
        return last

    def close(self) -> None:
        """Wait for what runs, and let go of the generator's connections."""
        self._threads.shutdown()
        if callable(close := getattr(self._shared, "close", None)):
            close()

    def _pieces(self, question: Question, store: SearchService, caller: Caller) -> Iterator[str | Answer]:
        return self._answerer(store).stream(
            question.text, history=question.history, k=question.k, filter=question.filter, tenant=caller.tenant
        )

    def _answerer(self, store: SearchService) -> Answerer:
        with self._building:
            kept = self._answerers.get(id(store))
            if kept is None or kept[0] is not store:
                # A reader needs the model's hidden states, which the queue does not serve, so it has the real encoder;
                # how many read at once is bounded by the threads here.
                reading = shipped_reading(store.store, store.model.encoder)
                generator, judge = self._generator(store, reading), build_judge(reading)
                kept = (store, Answerer(store.store, store.encoder, generator=generator, judge=judge))
                self._answerers[id(store)] = kept
            return kept[1]

    def _generator(self, store: SearchService, reading: Reading | None) -> Generator | None:
        """One for all stores, unless it reads the states that a store's model made."""
        if reads_states(self._choice):
            return build_generator(self._choice, store.store, store.model.encoder, reading)
        if self._shared is None:
            self._shared = build_generator(self._choice, store.store, store.model.encoder)
        return self._shared

    def _left(self, _: Any) -> None:
        self._running -= 1
