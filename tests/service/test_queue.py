from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from decant.embedder.errors import InputError
from decant.service.errors import DeadlineExceeded, Overloaded, Unavailable
from decant.service.queue import BatchQueue, Limits, Outcome, Priority


@dataclass(frozen=True)
class Text:
    name: str
    tokens: int = 1
    key: str = ""


@dataclass
class Machine:
    """Echoes names; while the gate is closed its thread stands still, and `entered` tells that it does."""

    poison: str = "poison"
    gate: threading.Event = field(default_factory=threading.Event)
    entered: threading.Event = field(default_factory=threading.Event)
    batches: list[list[str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def __call__(self, works: Sequence[Text]) -> list[str]:
        self.entered.set()
        assert self.gate.wait(20)
        self.batches.append([work.name for work in works])
        if any(work.name == self.poison for work in works):
            raise ValueError("poisoned")
        return [work.name.upper() for work in works]


@dataclass
class Log:
    drops: Counter[str] = field(default_factory=Counter)
    texts: int = 0

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        self.texts += texts

    def dropped(self, reason: str) -> None:
        self.drops[reason] += 1


Queue = BatchQueue[Text, str]


def call(queue: Queue, *texts: Text, **options: Any) -> Coroutine[Any, Any, Outcome[str]]:
    options.setdefault("estimate", sum(text.tokens for text in texts))
    return queue.submit(lambda: list(texts), **options)


def run(body: Callable[[Queue, Machine, Log], Coroutine[Any, Any, None]], limits: Limits | None = None) -> None:
    async def main() -> None:
        machine, log = Machine(), Log()
        queue: Queue = BatchQueue(machine, limits, observer=log)
        try:
            async with asyncio.timeout(20):
                await body(queue, machine, log)
        finally:
            machine.gate.set()
            await queue.drain()

    asyncio.run(main())


async def occupy(queue: Queue, machine: Machine) -> asyncio.Task[Outcome[str]]:
    """Keep the computing thread busy with one text until the gate opens."""
    machine.gate.clear()
    machine.entered.clear()
    task = asyncio.create_task(call(queue, Text("first")))
    assert await asyncio.to_thread(machine.entered.wait, 10)
    return task


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0)


async def waiting(queue: Queue, *coroutines: Coroutine[Any, Any, Outcome[str]]) -> list[asyncio.Task[Outcome[str]]]:
    """Start calls one after the other, each queued before the next begins."""
    tasks: list[asyncio.Task[Outcome[str]]] = []
    for coroutine in coroutines:
        before = queue.accepted
        tasks.append(asyncio.create_task(coroutine))
        await until(lambda before=before: queue.accepted > before)
    return tasks


def test_results_come_in_the_order_of_the_texts() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        outcome = await call(queue, *(Text(str(i)) for i in range(50)))
        assert outcome.results == [str(i) for i in range(50)]
        await until(lambda: log.texts == 50)  # counted behind the answer

    run(body, Limits(batch_tokens=7))


def test_what_arrives_while_a_batch_runs_becomes_one_batch() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        others = await waiting(queue, *(call(queue, Text(str(i))) for i in range(20)))
        machine.gate.set()
        await asyncio.gather(first, *others)
        assert [len(batch) for batch in machine.batches] == [1, 20]

    run(body)


def test_batches_keep_to_the_token_budget_and_a_longer_text_goes_alone() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        [rest] = await waiting(
            queue, call(queue, Text("a", 6), Text("b", 5), Text("c", 4), Text("long", 30), Text("d"))
        )
        machine.gate.set()
        await asyncio.gather(first, rest)
        assert machine.batches[1:] == [["a"], ["b", "c"], ["long"], ["d"]]

    run(body, Limits(batch_tokens=10))


def test_batches_are_small_enough_to_be_over_soon() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        del queue, log
        now = 0.0

        def slowly(works: Sequence[Text]) -> list[str]:
            nonlocal now
            now += sum(work.tokens for work in works) / 5000
            return machine(works)

        slow: Queue = BatchQueue(slowly, Limits(batch_tokens=4000, batch_seconds=0.1), clock=lambda: now)
        await call(slow, *(Text("text", 50) for _ in range(200)))
        await slow.drain()
        sizes = [50 * len(batch) for batch in machine.batches]
        # The first batch is as large as may be; then 5000 tokens per second and 0.1 s leave 500, up to twice as many
        # while they are no more than a quarter of what waits.
        assert sizes[:5] == [4000, 1000, 1000, 1000, 750]
        assert set(sizes[6:-1]) == {500}

    run(body)


def test_pauses_between_batches_count_as_time_that_work_takes() -> None:
    now = 0.0

    class Pause(Log):
        def batch(self, texts: int, tokens: int, seconds: float) -> None:
            nonlocal now
            now += 1.0

    async def main() -> None:
        machine = Machine()
        queue: Queue = BatchQueue(
            machine, Limits(batch_tokens=4000, batch_seconds=0.1), observer=Pause(), clock=lambda: now
        )
        await call(queue, *(Text("text", 50) for _ in range(200)))
        await queue.drain()
        # Computing takes no time; the second after the first batch shows in the third: 7600 tokens a second by then.
        assert [50 * len(batch) for batch in machine.batches[:3]] == [4000, 4000, 750]

    asyncio.run(main())


def test_whoever_has_an_answer_sees_that_the_device_works() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        loop, successes = asyncio.get_running_loop(), list[float]()
        call_soon = loop.call_soon_threadsafe

        def wake(*args: Any, **options: Any) -> asyncio.Handle:
            successes.append(queue.last_success)
            return call_soon(*args, **options)

        loop.call_soon_threadsafe = wake
        before = time.monotonic()
        await call(queue, Text("a"))
        assert max(successes) >= before

    run(body)


def test_texts_of_different_keys_never_share_a_batch() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        calls = [call(queue, Text(f"{key}{i}", key=key), tenant=key) for i in range(3) for key in "xy"]
        rest = await waiting(queue, *calls)
        machine.gate.set()
        await asyncio.gather(first, *rest)
        assert all(len({name[0] for name in batch}) == 1 for batch in machine.batches)
        assert sorted(name for batch in machine.batches[1:] for name in batch) == sorted(
            f"{key}{i}" for i in range(3) for key in "xy"
        )

    run(body)


def test_a_tenant_with_much_work_does_not_hold_up_another() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        greedy = call(queue, *(Text(f"greedy{i}") for i in range(100)), tenant="greedy")
        modest = call(queue, *(Text(f"modest{i}") for i in range(3)), tenant="modest")
        rest = await waiting(queue, greedy, modest)
        machine.gate.set()
        await asyncio.gather(first, *rest)
        early = [name for batch in machine.batches[1:3] for name in batch]
        assert [name for name in early if name.startswith("modest")] == ["modest0", "modest1", "modest2"]
        assert len(early) == 8

    run(body, Limits(batch_tokens=4))


def test_tenants_share_by_tokens_not_by_texts() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        long = call(queue, *(Text(f"long{i}", 10) for i in range(10)), tenant="long")
        short = call(queue, *(Text(f"short{i}", 1) for i in range(100)), tenant="short")
        rest = await waiting(queue, long, short)
        machine.gate.set()
        await asyncio.gather(first, *rest)
        half = [name for batch in machine.batches[1:11] for name in batch]
        served = Counter(name.rstrip("0123456789") for name in half)
        assert abs(served["long"] * 10 - served["short"]) <= 20

    run(body, Limits(batch_tokens=10))


def test_queries_go_before_bulk_and_bulk_still_moves() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        bulk = call(queue, *(Text("bulk") for _ in range(4)), priority=Priority.BULK)
        query = call(queue, *(Text("query") for _ in range(80)), priority=Priority.QUERY)
        rest = await waiting(queue, bulk, query)
        machine.gate.set()
        await asyncio.gather(first, *rest)
        order = [name for batch in machine.batches[1:] for name in batch]
        assert order[0] == "query"
        assert 0 < order.index("bulk") < 20

    run(body, Limits(batch_tokens=2))


def test_a_full_queue_refuses_with_a_hint_and_recovers() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        await call(queue, Text("measure the speed", 5))
        first = await occupy(queue, machine)
        rest = await waiting(queue, call(queue, Text("a", 9)))
        with pytest.raises(Overloaded) as refused:
            await call(queue, Text("b", 2))
        assert refused.value.retry_after > 0
        assert log.drops == {"overloaded": 1}
        machine.gate.set()
        await asyncio.gather(first, *rest)
        assert (await call(queue, Text("b", 2))).results == ["B"]

    run(body, Limits(queued_tokens=10))


def test_requests_are_bounded_as_well_as_tokens() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        rest = await waiting(queue, *(call(queue, Text(str(i))) for i in range(3)))
        with pytest.raises(Overloaded):
            await call(queue, Text("one too many"))
        machine.gate.set()
        await asyncio.gather(first, *rest)

    run(body, Limits(queued_requests=3))


def test_room_is_held_while_texts_are_tokenised_and_given_back() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        started, go = threading.Event(), threading.Event()

        def slowly() -> list[Text]:
            started.set()
            assert go.wait(10)
            return [Text("slow", 2)]

        slow = asyncio.create_task(queue.submit(slowly, estimate=9))
        assert await asyncio.to_thread(started.wait, 10)
        with pytest.raises(Overloaded):
            await call(queue, Text("b", 2))
        go.set()
        assert (await slow).results == ["SLOW"]
        assert queue.tokens() == 0 and queue.requests() == 0
        assert (await call(queue, Text("b", 9))).results == ["B"]

    run(body, Limits(queued_tokens=10))


def test_a_request_that_can_never_fit_is_an_input_error() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        with pytest.raises(InputError, match="fewer texts"):
            await call(queue, Text("huge", 11))

    run(body, Limits(queued_tokens=10))


def test_one_poisoned_text_fails_alone() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        names = [str(i) for i in range(20)]
        names[13] = "poison"
        rest = await waiting(queue, call(queue, *map(Text, names)), call(queue, Text("another caller's")))
        machine.gate.set()
        _, mixed, other = await asyncio.gather(first, *rest)
        assert isinstance(mixed.results[13], ValueError)
        assert [r for i, r in enumerate(mixed.results) if i != 13] == [n for i, n in enumerate(names) if i != 13]
        assert other.results == ["ANOTHER CALLER'S"]

    run(body)


def test_a_text_that_cannot_be_prepared_fails_alone() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        bad = InputError("empty")
        assert (await queue.submit(lambda: [Text("a"), bad, Text("b")], estimate=3)).results == ["A", bad, "B"]
        assert (await queue.submit(lambda: [bad], estimate=1)).results == [bad]

    run(body)


def test_cancelled_work_is_not_computed_and_frees_its_room() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        gone, stays = await waiting(queue, call(queue, Text("gone", 3)), call(queue, Text("stays")))
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        assert queue.tokens() == 1
        machine.gate.set()
        await asyncio.gather(first, stays)
        assert [name for batch in machine.batches for name in batch] == ["first", "stays"]
        assert log.drops == {"cancelled": 1}

    run(body)


def test_expired_work_is_told_at_once_and_not_computed() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        with pytest.raises(DeadlineExceeded):
            await call(queue, Text("late", 3), deadline=time.monotonic() + 0.02)
        assert queue.tokens() == 0 and not first.done()
        machine.gate.set()
        await first
        assert machine.batches == [["first"]]
        assert log.drops == {"expired": 1}

    run(body)


def test_drain_finishes_what_was_accepted_and_refuses_the_rest() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        rest = await waiting(queue, *(call(queue, Text(str(i))) for i in range(5)))
        drained = asyncio.create_task(queue.drain())
        await until(lambda: queue.draining)
        with pytest.raises(Unavailable):
            await call(queue, Text("too late"))
        assert not drained.done()
        machine.gate.set()
        await drained
        assert [outcome.result().results for outcome in (first, *rest)] == [["FIRST"], *([str(i)] for i in range(5))]
        assert queue.accepted == queue.answered == 6

    run(body)


def test_the_event_loop_stays_free_while_texts_are_computed() -> None:
    async def body(queue: Queue, machine: Machine, log: Log) -> None:
        first = await occupy(queue, machine)
        turns = 0
        for _ in range(1000):
            await asyncio.sleep(0)
            turns += 1
        assert turns == 1000 and not first.done()
        machine.gate.set()
        await first

    run(body)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere all threads of a process have one priority")
def test_computing_stands_back_behind_the_event_loop() -> None:
    def priority(works: Sequence[Text]) -> list[int]:
        return [os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) for _ in works]

    async def main() -> None:
        queue: BatchQueue[Text, int] = BatchQueue(priority, Limits(niceness=2))
        outcome = await queue.submit(lambda: [Text("a")], estimate=1)
        await queue.drain()
        assert outcome.results == [min(os.getpriority(os.PRIO_PROCESS, 0) + 2, 19)]

    asyncio.run(main())


def test_short_queries_on_an_idle_server_do_not_make_it_look_slow() -> None:
    now = 0.0

    def slowly(works: Sequence[Text]) -> list[str]:
        nonlocal now
        now += 0.01 + sum(work.tokens for work in works) / 10_000
        return [work.name for work in works]

    async def main() -> None:
        queue: Queue = BatchQueue(slowly, Limits(query_seconds=2.0), clock=lambda: now)
        for _ in range(5):
            await call(queue, Text("short", 5), priority=Priority.QUERY)
        together = [call(queue, Text("long", 400), priority=Priority.QUERY) for _ in range(8)]
        assert len(await asyncio.gather(*together)) == 8
        await queue.drain()

    asyncio.run(main())
