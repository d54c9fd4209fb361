"""The process in which `Isolated` parses.

Requests and answers are one JSON line each, a request followed by the file's bytes. The process puts itself under the
request's limits, so that the kernel ends it however deep in native code it hangs.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from typing import IO, Any

from .formats import Format
from .parsed import ReadError, one_line

MEMORY_BYTES = 4 << 30


def answer(request: dict[str, Any], content: bytes) -> dict[str, Any]:
    """Parse `content` as the request says; what fails is the answer's `error`."""
    try:
        parser = Format("", request["reader"]).parser()  # importing a library is not the file's fault
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        parsed = parser(content)
    except ReadError as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "parsing needs too much memory"}
    except Exception as error:  # a parser's own bug on a hostile file must cost that file only
        return {"error": one_line(f"the parser failed: {type(error).__name__}: {error}")}
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {"text": parsed.text, "title": parsed.title, "metadata": parsed.metadata}


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until the stream ends."""
    while line := requests.readline():
        request = json.loads(line)
        content = requests.read(request["size"])
        answers.write(json.dumps(answer(request, content)).encode() + b"\n")
        answers.flush()


def main() -> None:
    """Serve on the standard streams; whatever a library prints goes nowhere."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's Ctrl-C is the parent's to handle
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers)
