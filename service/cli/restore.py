"""`decant restore`."""

from __future__ import annotations

from typing import Annotated

import typer

from .options import DEFAULT_STORE, Debug, Json, Store
from .output import print_json, say
from .problem import Problem, require_store

NAME = "restore"
SHORT_HELP = "Go back to what the index held before."


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="A snapshot's name.")] = None,
    store: Store = DEFAULT_STORE,
    version: Annotated[int | None, typer.Option("--version", min=1, help="Or a version's number.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Go back to a snapshot, or to a version that is still there; decant snapshot lists both.

    Searches that run meanwhile see the index before or after, never in between. What is gone back from is a version
    itself, and can be gone back to until the next clean-up.
    """
    del debug
    require_store(store)
    if (name is None) == (version is None):
        raise Problem("say what to go back to: the name of a snapshot, or --version and a number")
    from ...index import backups
    from ...index.store import Store as IndexStore

    with IndexStore.open(store) as opened:
        now = backups.restore(opened, name if name is not None else version or 0)
        chunks = len(opened.snapshot())
    if as_json:
        print_json({"store": str(store), "version": now, "chunks": chunks})
    else:
        say(f"restored as version {now}: {chunks:,} passages")
