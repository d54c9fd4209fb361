"""`BatchQueue`: continuous batching between an event loop and the one thread that computes.

The computing thread takes its next batch itself, the moment it is free: nothing waits for a timer, a batch is formed
as late as possible, and the device never idles until the event loop gets round to it. While a batch runs, what
arrives is the next batch.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from ..errors import DeadlineExceeded, Overloaded, Unavailable
from .lanes import Lanes, Limits, Priority, Request, Work

Dropped = Literal["overloaded", "expired", "cancelled", "shutdown"]
W = TypeVar("W", bound=Work)
R = TypeVar("R")
_log = logging.getLogger(__name__)

# The speed is tokens over seconds of the latest batches, each counting this much of the one after it.
_SPEED_DECAY = 0.9
# Below this many tokens a batch is all overhead, so that making it smaller still would not make it shorter.
_LEAST_BATCH_TOKENS = 256
_RETRY_SECONDS = (0.25, 30.0)
_PREPARE_THREADS = 2
# Who comes now waits for what is there: where that is much, a batch may be this share of it, and so many times as long
# as the limits say. Two small batches take some 5 % longer than one.
_BACKLOG_SHARE, _LONGER = 0.25, 2.0


class Observer(Protocol):
    """Told what the queue does; must be quick and safe to call from any thread."""

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""
        ...

    def dropped(self, reason: Dropped) -> None:
        """A request was not served, or not to its end."""
        ...


class _Silent:
    def batch(self, texts: int, tokens: int, seconds: float) -> None: ...

    def dropped(self, reason: Dropped) -> None: ...


@dataclass(frozen=True)
class Outcome(Generic[R]):
    """What became of one call.

    Attributes:
        results: by position in the call; an exception where one text failed.
        prepare_seconds: from the call until its texts were ready.
        queue_seconds: from then until the first of them was computed.
        run_seconds: from then until the last was.
    """

    results: list[R | Exception]
    prepare_seconds: float
    queue_seconds: float
    run_seconds: float


@dataclass(eq=False)
class _Call(Request[W]):
    """A request together with what is known of it so far; the event loop's own."""

    results: dict[int, Any] = field(default_factory=dict[int, Any])
    missing: int = 0
    ready: float = 0.0
    began: float = 0.0
    ended: float = 0.0
    done: asyncio.Event = field(default_factory=asyncio.Event)


class BatchQueue(Generic[W, R]):
    """One encoder's queue. Create, call and drain it on one event loop."""

    def __init__(
        self,
        run: Callable[[Sequence[W]], Sequence[R | Exception]],
        limits: Limits | None = None,
        *,
        name: str = "encode",
        observer: Observer | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Start the computing thread.

        Args:
            run: computes a batch, result i from work i, on the computing thread; if it raises, the batch is halved
                until the text that it fails on is alone.
            limits: bounds and the token budget.
            name: of the thread.
            observer: told about batches and drops.
            clock: measures how long batches take.
        """
        self._run = run
        self._observer: Observer = observer or _Silent()
        self._lanes: Lanes[W] = Lanes(limits or Limits())
        self._changed = threading.Condition()
        self._loop = asyncio.get_running_loop()
        self._prepare = ThreadPoolExecutor(_PREPARE_THREADS, f"{name}-prepare")
        self._open_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = self._closed = False
        self._clock = clock
        self._recent_tokens = self._recent_seconds = 0.0
        self.accepted = self.answered = 0  # calls; the difference is what is open, expired or cancelled
        self.last_success = -float("inf")
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    @property
    def limits(self) -> Limits:
        """The bounds."""
        return self._lanes.limits

    @property
    def draining(self) -> bool:
        """Whether new work is refused."""
        return self._draining

    def tokens(self, priority: Priority | None = None) -> int:
        """Tokens waiting."""
        with self._changed:
            return self._lanes.tokens(priority)

    def requests(self, priority: Priority | None = None) -> int:
        """Requests waiting."""
        with self._changed:
            return self._lanes.requests(priority)

    async def submit(
        self,
        prepare: Callable[[], Sequence[W | Exception]],
        *,
        estimate: int,
        tenant: str = "",
        priority: Priority = Priority.BULK,
        deadline: float | None = None,
        inline: bool = False,
    ) -> Outcome[R]:
        """Prepare the texts of one call on a thread, let them wait their turn, and return what was computed.

        Args:
            prepare: tokenises; an exception in place of a work is that text's result.
            estimate: about how many tokens there will be; room for them is held meanwhile.
            tenant: whose turn it uses.
            priority: see `Priority`.
            deadline: by `time.monotonic`; what has not begun by then is not computed.
            inline: prepare here and now; for what takes less time than handing it to a thread and back.

        Raises:
            Overloaded, InputError: see `Lanes.reserve`; nothing was computed.
            Unavailable: the queue is draining.
            DeadlineExceeded: the deadline has passed.
        """
        started = time.monotonic()
        if self._draining:
            self._observer.dropped("shutdown")
            raise Unavailable("the server is shutting down: ask another one")
        self._open_calls += 1
        self._idle.clear()
        try:
            async with asyncio.timeout_at(deadline):
                works = await self._prepared(prepare, estimate, tenant, priority, inline=inline)
                call = self._admit(works, tenant, priority, deadline)
                await self._finished(call)
        except TimeoutError:
            self._observer.dropped("expired")
            raise DeadlineExceeded("the request's time is over: allow more, or send fewer texts") from None
        except asyncio.CancelledError:
            # A door whose deadline it was cancels too; the clock tells the two apart.
            expired = deadline is not None and time.monotonic() >= deadline
            self._observer.dropped("expired" if expired else "cancelled")
            raise
        finally:
            self._open_calls -= 1
            if self._open_calls == 0:
                self._idle.set()
        self.answered += 1
        results = [call.results[i] for i in range(len(works))]
        ready = call.ready
        began = call.began or ready
        return Outcome(results, ready - started, began - ready, max(call.ended - began, 0.0))

    async def drain(self) -> None:
        """Refuse new work, finish what was accepted, and end the thread."""
        self._draining = True
        await self._idle.wait()
        with self._changed:
            self._closed = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join)
        self._prepare.shutdown()

    async def _prepared(
        self,
        prepare: Callable[[], Sequence[W | Exception]],
        estimate: int,
        tenant: str,
        priority: Priority,
        *,
        inline: bool,
    ) -> Sequence[W | Exception]:
        with self._room():
            self._check_wait(priority)
            if not inline:
                self._lanes.reserve(estimate, tenant)
        if inline:
            return prepare()
        try:
            return await self._loop.run_in_executor(self._prepare, prepare)
        finally:
            with self._changed:
                self._lanes.release(estimate, tenant)

    def _admit(
        self, works: Sequence[W | Exception], tenant: str, priority: Priority, deadline: float | None
    ) -> _Call[W]:
        ready = deque((i, work) for i, work in enumerate(works) if not isinstance(work, Exception))
        call: _Call[W] = _Call(ready, tenant, priority, deadline)
        call.results.update({i: work for i, work in enumerate(works) if isinstance(work, Exception)})
        call.missing = len(ready)
        call.ready = time.monotonic()
        if not ready:
            call.done.set()
        else:
            with self._room():
                self._lanes.add(call)
                self._changed.notify()
        self.accepted += 1
        return call

    async def _finished(self, call: _Call[W]) -> None:
        try:
            await call.done.wait()
        except asyncio.CancelledError:
            with self._changed:
                self._lanes.remove(call)
            raise

    def _check_wait(self, priority: Priority) -> None:
        """Refuse what would wait too long, at the speed measured; an empty queue takes everything."""
        limits = self._lanes.limits
        most = limits.query_seconds if priority is Priority.QUERY else limits.bulk_seconds
        seconds = self._lanes.ahead(priority) / self._speed() if self._speed() else 0.0
        if seconds > most:
            raise Overloaded(f"about {seconds:.1f} seconds of work are waiting, no more is taken: try again later", 0.0)

    @contextmanager
    def _room(self) -> Generator[None]:
        """Hold the lock; a refusal for want of room is counted and says when there should be some."""
        with self._changed:
            try:
                yield
            except Overloaded as error:
                self._observer.dropped("overloaded")
                seconds = self._lanes.tokens() / 2 / self._speed() if self._speed() else 1.0
                error.retry_after = min(max(seconds, _RETRY_SECONDS[0]), _RETRY_SECONDS[1])
                raise

    def _work(self) -> None:
        """The computing thread."""
        _stand_back(self._lanes.limits.niceness)
        free = self._clock()
        while True:
            with self._changed:
                while not (batch := self._lanes.take(time.monotonic(), self._budget())):
                    if self._closed:
                        return
                    self._changed.wait()
                    free = self._clock()
            # From one batch's end to the next one's, where work was waiting: those who wait see the pauses, too.
            began, started = time.monotonic(), free
            results = self._attempt([work for _, _, work in batch])
            ended, free = time.monotonic(), self._clock()
            if any(not isinstance(result, Exception) for result in results):
                self.last_success = ended
            # Whoever waits is woken first, and what is counted meanwhile costs them nothing.
            self._loop.call_soon_threadsafe(self._deliver, batch, results, began, ended)
            self._account(sum(work.tokens for _, _, work in batch), len(results), free - started)

    def _attempt(self, works: Sequence[W]) -> list[R | Exception]:
        """Run a batch; where it fails, halve it until each failing text is alone."""
        try:
            results = list(self._run(works))
            if len(results) != len(works):
                raise RuntimeError(f"{len(works)} texts gave {len(results)} results")
            return results
        except Exception as error:
            if len(works) == 1:
                _log.warning("one text failed: %s: %s", type(error).__name__, error)
                return [error]
        middle = len(works) // 2
        return self._attempt(works[:middle]) + self._attempt(works[middle:])

    def _account(self, tokens: int, texts: int, seconds: float) -> None:
        if tokens >= _LEAST_BATCH_TOKENS:
            # A short query says how long a batch takes, not how fast tokens are; where much waits, batches are large.
            self._recent_tokens = _SPEED_DECAY * self._recent_tokens + tokens
            self._recent_seconds = _SPEED_DECAY * self._recent_seconds + seconds
        self._observer.batch(texts, tokens, seconds)

    def _speed(self) -> float:
        """Tokens per second lately; 0 before the first batch that tells."""
        return self._recent_tokens / max(self._recent_seconds, 1e-6)

    def _budget(self) -> int:
        """Tokens for the next batch: as many as should be done within the limits' seconds, more behind a backlog."""
        limits = self._lanes.limits
        if not self._recent_tokens:
            return limits.batch_tokens
        shortest = self._speed() * limits.batch_seconds
        tokens = min(max(shortest, _BACKLOG_SHARE * self._lanes.tokens()), _LONGER * shortest)
        return min(limits.batch_tokens, max(round(tokens), _LEAST_BATCH_TOKENS))

    def _deliver(
        self, batch: list[tuple[Request[W], int, W]], results: list[R | Exception], began: float, ended: float
    ) -> None:
        """Hand results to the calls that wait for them; on the event loop."""
        for (call, index, _), result in zip(batch, results, strict=True):
            assert isinstance(call, _Call), "only `_admit` adds requests"
            call.results[index] = result
            call.began = call.began or began
            call.ended = ended
            call.missing -= 1
            if call.missing == 0:
                call.done.set()


def _stand_back(niceness: int) -> None:
    """Lower this thread's priority, and that of the threads that it will start to compute with.

    Else an event loop with a thousandth of the work waits for whole time slices before it can refuse a call. Only
    Linux gives each thread a priority of its own.
    """
    if niceness and sys.platform == "linux":
        thread = threading.get_native_id()
        now = os.getpriority(os.PRIO_PROCESS, thread)
        os.setpriority(os.PRIO_PROCESS, thread, min(now + niceness, 19))
