"""What reaches the screen: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text


class PipeClosed(Exception):
    """Whoever read our output, such as `head`, has stopped."""


class _StdoutConsole(Console):
    def on_broken_pipe(self) -> NoReturn:
        raise PipeClosed


def results() -> Console:
    """The console for results, on stdout."""
    return _StdoutConsole(highlight=False, soft_wrap=False)


def errors() -> Console:
    """The console for messages and progress, on stderr."""
    return Console(stderr=True, highlight=False)


def say_error(message: str) -> None:
    """Print one `error:` line, however long, so that a script can read it."""
    errors().print(Text.assemble(("error: ", "bold red"), message), soft_wrap=True)


def say(message: str, style: str = "dim") -> None:
    """Print one line of information on stderr."""
    errors().print(Text(message, style=style), soft_wrap=True)


def print_json(value: Any) -> None:
    """Print one JSON object on stdout; Unicode as it is, NaN refused."""
    write_line(json.dumps(value, ensure_ascii=False, allow_nan=False))


def write_line(text: str) -> None:
    """Write a line to stdout.

    Raises:
        PipeClosed: nobody reads it any more.
    """
    try:
        sys.stdout.write(text + "\n")
    except BrokenPipeError:
        raise PipeClosed from None


def drop_output() -> None:
    """Point stdout at nothing, so that the interpreter's last flush has somewhere to go."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """An unframed table; the columns named in `right` hold numbers."""
    grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return grid
