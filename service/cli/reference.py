"""Writes docs/cli.md from the commands themselves, so that the two cannot disagree: `make docs`."""

from __future__ import annotations

import sys

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from .app import HELP_NAMES, app

_HEADER = "<!-- Written by `make docs` from the commands; a test fails when it is out of date. -->\n\n"


def reference() -> str:
    """Return the whole command line's reference in Markdown."""
    program = get_command(app)
    context = typer.Context(program, info_name="decant", help_option_names=HELP_NAMES)
    return _HEADER + get_docs_for_click(obj=program, ctx=context, name="decant").strip() + "\n"


if __name__ == "__main__":
    sys.stdout.write(reference())
