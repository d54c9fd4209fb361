"""What computes once leaves no OpenMP threads behind."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from decant.service.threads import apart, on_a_thread

COUNT = """
import os, time, torch
from decant.service.threads import apart
def threads():
    return len(os.listdir("/proc/self/task"))
def product():
    return float((torch.ones(600, 600) @ torch.ones(600, 600)).add_(1).sum())
torch.set_num_threads(3)
before = threads()
assert apart(product) == 600 * 600 * 601
deadline = time.monotonic() + 10
while threads() > before and time.monotonic() < deadline:
    time.sleep(0.01)  # they are told to end, and are not waited for
after = threads()
product()
print(before, after, threads())
"""


def test_the_result_or_the_error_is_the_works() -> None:
    before = threading.active_count()
    assert apart(lambda: 3) == 3
    assert asyncio.run(on_a_thread(lambda: threading.current_thread().name)) != threading.current_thread().name
    with pytest.raises(ZeroDivisionError):
        apart(lambda: 1 / 0)
    assert threading.active_count() == before


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_openmp_threads_go_with_the_thread_that_computed() -> None:
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    before, after, here = map(int, done.stdout.split())
    # A thread that stays keeps two helpers beside it: what is counted can be seen.
    assert after == before and here == before + 2
