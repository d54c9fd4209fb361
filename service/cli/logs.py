"""The server's log: one JSON object per line on stderr, written by a thread, so that a slow reader delays nobody."""

from __future__ import annotations

import json
import logging
import queue
import time
from collections.abc import Generator
from contextlib import contextmanager
from logging.handlers import QueueHandler, QueueListener
from typing import Any

# Lines that may wait to be written; beyond it new ones are left out, because the server must not wait for its log.
_WAITING = 10_000


@contextmanager
def log_as_json(level: str) -> Generator[None]:
    """Send our records of `level` and above, and the libraries' warnings, there for the length of the block."""
    waiting: queue.Queue[logging.LogRecord] = queue.Queue(_WAITING)
    handler = _Quiet(waiting)
    handler.setFormatter(JsonLines())
    listener = QueueListener(waiting, logging.StreamHandler())
    # Of libraries only what went wrong is of interest.
    logging.basicConfig(
        level=max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]), handlers=[handler], force=True
    )
    logging.getLogger("decant").setLevel(level.upper())
    listener.start()
    try:
        yield
    finally:
        listener.stop()


class JsonLines(logging.Formatter):
    """A record as one JSON object; whatever was given as `extra` becomes a field."""

    _known = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

    def format(self, record: logging.LogRecord) -> str:
        """Write it."""
        fields: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in self._known},
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


class _Quiet(QueueHandler):
    """Leaves a line out where too many wait."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 -- logging's name
        """Nothing: the line is lost, the server goes on."""
        del record
