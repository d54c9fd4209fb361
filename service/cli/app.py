"""The command line's root: which commands there are."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from io import TextIOWrapper
from types import FrameType
from typing import Annotated

import typer

from . import (
    ask,
    bench,
    chat,
    convert,
    embed,
    eval_qa,
    evaluate,
    index,
    info,
    mcp,
    mine,
    recall,
    recipe,
    restore,
    search,
    serve,
    snapshot,
    train,
    verify,
)
from .exit_codes import MEANING, ExitCode
from .program import Program

_EXIT_CODES = "Exit codes: " + "; ".join(f"{int(code)} {text}" for code, text in MEANING.items()) + "."

HELP_NAMES = ["-h", "--help"]

app = typer.Typer(
    name="decant",
    cls=Program,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    invoke_without_command=True,
    epilog=_EXIT_CODES,
    context_settings={"help_option_names": HELP_NAMES, "max_content_width": 100},
)
for _module in (
    index,
    search,
    ask,
    chat,
    embed,
    info,
    convert,
    verify,
    bench,
    evaluate,
    recall,
    snapshot,
    restore,
    eval_qa,
    train,
    mine,
    recipe,
    serve,
    mcp,
):
    app.command(_module.NAME, short_help=_module.SHORT_HELP)(_module.command)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"decant {version('decant')}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Search your documents by meaning, offline: text in, vectors out, results with their place in the file.

    Start with: decant index ./docs, then decant search "how do I ...". Every command explains itself with --help.
    """
    del show_version
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    # As an exception it unwinds the command: temporary files are removed and locks released. SystemExit, because
    # nobody on the way up may take it for an error of a library's.
    raise SystemExit(ExitCode.TERMINATED)


def main() -> None:
    """Run the command line of this process."""
    signal.signal(signal.SIGTERM, _terminate)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A file name that is no Unicode, or a terminal that is not UTF-8, must not end a run.
            stream.reconfigure(errors="backslashreplace")
    sys.exit(app())
