"""The outermost command: errors as one line, exit codes, and quiet libraries."""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from .exit_codes import ExitCode
from .output import PipeClosed, drop_output, errors, say_error
from .problem import Problem
from .quiet import quiet_libraries


class Program(TyperGroup):
    """Runs a subcommand and turns whatever it raises into a line on stderr and an `ExitCode`."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        """Run the command line `args`; with `standalone_mode`, exit the process with its code."""
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments
        if not debug:
            quiet_libraries()
        try:
            result = super().main(arguments, *rest, standalone_mode=False, **extra)
            code = int(result or ExitCode.OK)
            sys.stdout.flush()
        except Exception as error:
            code = _report(error, debug)
        if code == ExitCode.INTERRUPTED:
            errors().print("interrupted", style="red")
        if standalone_mode:
            sys.exit(code)
        return code


def _report(error: Exception, debug: bool) -> ExitCode:
    """Say what went wrong and return the exit code for it."""
    if isinstance(error, PipeClosed) or (isinstance(error, OSError) and error.errno == errno.EPIPE):
        drop_output()
        return ExitCode.PIPE_CLOSED
    if debug:
        traceback.print_exception(error)
    if isinstance(error, Problem):
        say_error(_one_line(error.message))
        return ExitCode.ERROR
    if isinstance(error, typer.TyperException):
        say_error(f"{_one_line(error.format_message())} (see --help)")
        return ExitCode(error.exit_code)
    if _is_for_the_user(error):
        say_error(_one_line(str(error)))
        return ExitCode.ERROR
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        say_error(f"the disk is full{_of(error)}: free some space and run the command again")
        return ExitCode.ERROR
    if isinstance(error, MemoryError):
        say_error("out of memory: close other programs, or use a smaller model")
        return ExitCode.ERROR
    say_error(f"a fault in Decant: {type(error).__name__}: {_one_line(str(error))} (--debug shows where)")
    return ExitCode.BUG


# Importing the classes would import torch; an instance can only exist where that has happened. A kernel that was asked
# for by name and cannot run is the user's to know; the kernels lie below the module that has DecantError.
_FOR_THE_USER = (("decant.embedder.errors", "DecantError"), ("decant.kernels.dispatch", "KernelError"))


def _is_for_the_user(error: Exception) -> bool:
    known = [getattr(sys.modules[module], name) for module, name in _FOR_THE_USER if module in sys.modules]
    return isinstance(error, tuple(known))


def _one_line(message: str) -> str:
    return " ".join(message.split())


def _of(error: OSError) -> str:
    return f" ({error.filename})" if error.filename else ""
