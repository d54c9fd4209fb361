"""Bidirectional streams: answers in the order of the requests, several in work at once, and a bound on how many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

A = TypeVar("A")
Q = TypeVar("Q")

# Requests of one stream in work at once: enough to keep the encoder busy while answers travel.
WINDOW = 8


async def ordered(
    requests: AsyncIterator[Q], handle: Callable[[Q], Awaitable[A]], *, window: int = WINDOW
) -> AsyncGenerator[A]:
    """Yield `handle(request)` for each request, in order.

    At most `window` requests have been read whose answers have not been taken: a client that does not read is not
    read from, and HTTP/2's flow control makes it wait. When the generator is closed, what is still in work is
    cancelled.
    """
    room = asyncio.Semaphore(window)
    tasks: asyncio.Queue[asyncio.Task[A] | Exception | None] = asyncio.Queue()

    async def answer(request: Q) -> A:
        return await handle(request)

    async def read() -> None:
        try:
            await room.acquire()
            async for request in requests:
                tasks.put_nowait(asyncio.create_task(answer(request)))
                await room.acquire()
        except Exception as error:
            tasks.put_nowait(error)
        else:
            tasks.put_nowait(None)

    reader = asyncio.create_task(read())
    current: asyncio.Task[A] | None = None
    try:
        while (following := await tasks.get()) is not None:
            if isinstance(following, Exception):
                raise following
            current = following
            yield await current
            room.release()
    finally:
        left: list[asyncio.Task[Any]] = [reader] + ([current] if current else [])
        while not tasks.empty():
            task = tasks.get_nowait()
            if isinstance(task, asyncio.Task):
                left.append(task)
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
