"""Parsing in a process of its own, so that a file that hangs, crashes or bloats its parser costs only itself."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from .formats import Format
from .parsed import Parsed, ReadError

PARSE_SECONDS = 60.0
# The worker imports this package without the model and database libraries that the packages around it load, which
# take seconds to start: those are stood in for by empty modules that only know their folder.
_START = """
import importlib, sys, types
for name, folder in zip(sys.argv[2::2], sys.argv[3::2]):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
importlib.import_module(sys.argv[1]).main()
"""


class Isolated:
    """A worker process, started when first needed and again after it died; close it, or use `with`.

    Args:
        seconds: what one file's parsing may take.
    """

    def __init__(self, seconds: float = PARSE_SECONDS) -> None:
        if seconds <= 0:
            raise ValueError(f"the time limit must be positive, not {seconds}")
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def read(self, format_: Format, content: bytes) -> Parsed:
        """Parse `content` in the worker.

        Raises:
            ReadError: what the parser raised, or that it took too long or crashed.
        """
        process = self._process or self._start()
        request = {"reader": format_.reader, "size": len(content), "seconds": self.seconds}
        answer = _ask(process, json.dumps(request).encode() + b"\n" + content)
        if not answer.endswith(b"\n"):
            raise ReadError(self._bury(process))
        values: dict[str, Any] = json.loads(answer)
        if "error" in values:
            raise ReadError(values["error"])
        return Parsed(values["text"], values["title"], values["metadata"])

    def close(self) -> None:
        """End the worker."""
        if self._process is not None:
            self._process.kill()
            self._bury(self._process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self) -> subprocess.Popen[bytes]:
        # -P: a json.py beside the indexed files must not become part of the worker.
        command = [sys.executable, "-P", "-c", _START, f"{__package__}.worker", *_packages_around()]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        return self._process

    def _bury(self, process: subprocess.Popen[bytes]) -> str:
        """Wait for a worker that is ending, and say why it is."""
        self._process = None
        process.wait()
        with suppress(BrokenPipeError), process:
            pass  # closes its streams
        if process.returncode == -signal.SIGALRM:
            return f"parsing took longer than {self.seconds:g} s"
        return f"the parser crashed (exit status {process.returncode})"


def _packages_around() -> list[str]:
    """Return name and folder of the packages that would be imported on the way to the worker."""
    distribution = str(__package__).rsplit(".", 2)[0]
    names = (f"{distribution}.embedder", f"{distribution}.index")
    return [item for name in names for item in (name, sys.modules[name].__path__[0])]


def _ask(process: subprocess.Popen[bytes], request: bytes) -> bytes:
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(request)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline()
