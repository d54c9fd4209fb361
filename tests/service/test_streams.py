from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from decant.service.grpc.streams import ordered


async def numbers(count: int) -> AsyncIterator[int]:
    for i in range(count):
        yield i


def test_answers_keep_their_order_however_long_each_takes() -> None:
    async def handle(i: int) -> int:
        for _ in range((7 - i) % 5):
            await asyncio.sleep(0)
        return i

    async def main() -> list[int]:
        return [answer async for answer in ordered(numbers(40), handle, window=6)]

    assert asyncio.run(main()) == list(range(40))


def test_no_more_than_a_window_is_read_ahead_of_the_reader() -> None:
    read = 0

    async def counted() -> AsyncIterator[int]:
        nonlocal read
        for i in range(100):
            read += 1
            yield i

    async def handle(i: int) -> int:
        return i

    async def main() -> None:
        answers = ordered(counted(), handle, window=4)
        for taken in range(1, 20):
            assert await anext(answers) == taken - 1
            for _ in range(20):
                await asyncio.sleep(0)
            # The answer just given out still holds its place.
            assert read <= taken - 1 + 4
        await answers.aclose()

    asyncio.run(main())


def test_closing_cancels_what_is_in_work() -> None:
    async def main() -> None:
        cancelled = 0
        began = asyncio.Event()

        async def handle(i: int) -> int:
            nonlocal cancelled
            if i == 0:
                return i
            try:
                began.set()
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise
            return i

        answers = ordered(numbers(10), handle, window=4)
        assert await anext(answers) == 0
        await began.wait()
        await answers.aclose()
        assert cancelled == 3 and len(asyncio.all_tasks()) == 1

    asyncio.run(main())


def test_a_failure_ends_the_stream_after_the_answers_before_it() -> None:
    async def handle(i: int) -> int:
        if i == 3:
            raise ValueError("three")
        return i

    async def main() -> None:
        got: list[int] = []
        with pytest.raises(ValueError, match="three"):
            async for answer in ordered(numbers(10), handle):
                got.append(answer)
        assert got == [0, 1, 2]

    asyncio.run(main())
