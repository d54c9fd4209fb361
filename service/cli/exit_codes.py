"""What the process's exit status means; scripts may rely on it."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit status of every command."""

    OK = 0
    ERROR = 1
    USAGE = 2
    PARTIAL = 3
    UNVERIFIED = 4
    BUG = 70
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    TERMINATED = 143


MEANING = {
    ExitCode.OK: "done",
    ExitCode.ERROR: "not done: the error's line says what to do",
    ExitCode.USAGE: "the command line makes no sense",
    ExitCode.PARTIAL: "done, but some files could not be indexed; they are listed",
    ExitCode.UNVERIFIED: "the model breaks an invariant; its vectors cannot be trusted",
    ExitCode.BUG: "a fault in Decant: --debug shows where",
    ExitCode.INTERRUPTED: "interrupted by Ctrl-C",
    ExitCode.PIPE_CLOSED: "whoever read the output stopped reading",
    ExitCode.TERMINATED: "terminated by SIGTERM",
}
