"""Batches at once: threads compute a batch each, instead of a share each of the same.

Between the products of a small model stand many short steps, and at the end of each all threads wait for the slowest.
Threads with batches of their own do not wait, and find them in their own processor's cache.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Barrier
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item], at_once: int) -> Iterator[Result]:
    """Apply `work` to items and yield the results in order.

    Args:
        work: called on threads that end with the iterator and share PyTorch's number of threads; with `at_once` below
            2 on the caller's own.
        items: at least `at_once`; as many are taken ahead of what has been yielded, twice over.
        at_once: how many are worked on at a time.
    """
    if at_once < 2:
        yield from map(work, items)
        return
    threads = torch.get_num_threads()
    ready = Barrier(at_once + 1)

    def begin() -> None:
        torch.get_num_threads()  # else the first step sets the number again
        torch.set_num_threads(max(1, threads // at_once))
        ready.wait()

    rest = iter(items)
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(at_once, "decant-batch", begin)
    try:
        pending.extend(pool.submit(work, item) for item in islice(rest, at_once))
        ready.wait()
        # Each thread has a number of its own; the one set last is what threads that come later begin with.
        torch.set_num_threads(threads)
        pending.extend(pool.submit(work, item) for item in islice(rest, at_once))
        while pending:
            yield pending.popleft().result()
            pending.extend(pool.submit(work, item) for item in islice(rest, 1))
    finally:
        pool.shutdown(cancel_futures=True)
