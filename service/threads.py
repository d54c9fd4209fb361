"""Work that computes once, on a thread that ends with it.

Each thread that has computed keeps OpenMP threads of its own. Where a process has more of those than processors, all of
them sleep at once at the end of each product instead of waiting for the next, and computing takes an eighth longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def apart(work: Callable[[], T]) -> T:
    """Run `work` on a thread of its own, wait for it, and let the thread go."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()


async def on_a_thread(work: Callable[[], T]) -> T:
    """`apart`, for an event loop."""
    with ThreadPoolExecutor(1) as thread:
        return await asyncio.get_running_loop().run_in_executor(thread, work)
