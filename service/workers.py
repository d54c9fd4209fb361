"""Several processes behind one pair of ports: the kernel deals connections out (SO_REUSEPORT), a parent sees to them.

Each process has models, queues and metrics of its own; nothing is shared but the ports and the stores' folders.
One that dies is started again; the others do not notice, but for the calls it had accepted.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import wait
from typing import Any

from .config import Settings
from .errors import ServiceError
from .ports import PORTS, held

_log = logging.getLogger(__name__)
# A process that dies younger than this is not started again at once, lest a fault becomes a loop.
_YOUNG_SECONDS = 5.0


def supervise(settings: Settings) -> int:
    """Run `settings.workers` processes until SIGTERM or SIGINT.

    Returns:
        The exit code: 0 if all ended in order.

    Raises:
        ServiceError: a process ended before it was ready.
    """
    with ExitStack() as stack:
        ports = {name: stack.enter_context(held(settings, name, shared=True)) for name in PORTS}
        values = {**settings.model_dump(mode="json"), **ports, "workers": 1, "reuse_port": True}
        asked = stack.enter_context(_asked_to_stop())
        crew = [_Worker(values, number, settings.workers) for number in range(settings.workers)]
        try:
            for worker in crew:
                worker.start()
            for worker in crew:
                worker.wait_until_ready(asked)
            page = settings.page(ports["http_port"])
            _log.info("ready", extra={"workers": settings.workers, **ports, "page": page})
            while not wait([asked, *(worker.sentinel for worker in crew)]).count(asked):
                for worker in crew:
                    worker.revive()
        finally:
            codes = [worker.stop(settings.drain_seconds + settings.linger_seconds + 10) for worker in crew]
    _log.info("stopped", extra={"workers": settings.workers})
    return next((1 for code in codes if code), 0)


class _Worker:
    """One process, and its successors."""

    def __init__(self, values: dict[str, Any], number: int, of: int) -> None:
        self._values = values
        self._number = number
        self._of = of
        self._context = multiprocessing.get_context("spawn")
        self._ready = self._context.Event()
        self._process: Any = None
        self._started = 0.0

    @property
    def sentinel(self) -> int:
        """Becomes readable when the process ends."""
        return int(self._process.sentinel)

    def start(self) -> None:
        """Start a process."""
        self._ready.clear()
        self._started = time.monotonic()
        self._process = self._context.Process(
            target=_work, args=(self._values, self._number, self._of, self._ready), name=f"decant-{self._number}"
        )
        self._process.start()

    def wait_until_ready(self, asked: int) -> None:
        """Return once it answers, or once the parent is asked to stop; raises ServiceError if it ends instead."""
        while not self._ready.wait(0.05) and not wait([asked], 0):
            if not self._process.is_alive():
                raise ServiceError("a server process ended while it started: its line above says why")

    def revive(self) -> None:
        """Start again if the process has died."""
        if self._process.is_alive():
            return
        _log.warning(
            "a process died and is started again", extra={"worker": self._number, "code": self._process.exitcode}
        )
        time.sleep(max(0.0, _YOUNG_SECONDS - (time.monotonic() - self._started)))
        self.start()

    def stop(self, seconds: float) -> int:
        """End it in order, by force if it takes longer; return its exit code."""
        if self._process is None:
            return 0
        self._process.terminate()
        self._process.join(seconds)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        # One that was told to end before it could listen to that has ended as it should.
        return 0 if self._process.exitcode == -signal.SIGTERM else int(self._process.exitcode or 0)


def _work(values: dict[str, Any], number: int, of: int, ready: Any) -> None:
    """A process's main function."""
    import sys

    from ..embedder import DecantError
    from ..embedder.threads import limit_threads
    from .cli.loading import load_encoder
    from .cli.logs import log_as_json
    from .server import Server, run
    from .threads import apart

    # The parent decides when to stop; a terminal's Ctrl-C reaches every process of the group.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    limit_threads(of)
    settings = Settings(**values)
    if settings.metrics_port is not None:
        settings = settings.model_copy(update={"metrics_port": settings.metrics_port + number})

    def announce(server: Server) -> None:
        del server
        ready.set()

    with log_as_json(settings.log_level):
        try:
            encoder = apart(lambda: load_encoder(settings.model, settings.device, settings.dtype))
            run(settings, encoder, announce, orphaned=_parent())
        except DecantError as error:
            _log.error(str(error), extra={"worker": number})
            sys.exit(1)


def _parent() -> int | None:
    """A descriptor that becomes readable when the parent is gone."""
    parent = multiprocessing.parent_process()
    return None if parent is None else int(parent.sentinel)


@contextmanager
def _asked_to_stop() -> Generator[int]:
    """A descriptor that becomes readable at SIGTERM or SIGINT."""
    reading, writing = os.pipe()
    before = {
        number: signal.signal(number, lambda *_: os.write(writing, b".")) for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield reading
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reading)
        os.close(writing)
