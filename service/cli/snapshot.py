"""`decant snapshot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import DEFAULT_STORE, Debug, Json, Store
from .output import print_json, results, say, table
from .problem import Problem, require_store

NAME = "snapshot"
SHORT_HELP = "Name the index as it is now, list what was named, or copy it elsewhere."


def command(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="What to call it. Default: list them.")] = None,
    store: Store = DEFAULT_STORE,
    drop: Annotated[bool, typer.Option("--drop", help="Forget the snapshot of this name.")] = False,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Copy the index to a new folder, an index of its own.")
    ] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Name the index as it is now, so that decant restore can go back to it; without a name, list what there is.

    A snapshot takes no time and no space, but while it is kept nothing that came after it is cleaned up.
    """
    del debug
    require_store(store)
    if drop and name is None:
        raise Problem("--drop needs the name of a snapshot: decant snapshot lists them")
    from ...index import backups
    from ...index.store import Store as IndexStore

    with IndexStore.open(store) as opened:
        if to is not None:
            backups.back_up_to(opened, to)
            say(f"copied to {to}")
        if drop and name is not None:
            backups.drop_snapshot(opened, name)
        elif name is not None:
            backups.take_snapshot(opened, name)
        known = backups.versions(opened)
    if as_json:
        print_json({"versions": [{"version": v.number, "name": v.name, "made": v.made.isoformat()} for v in known]})
        return
    grid = table("version", "name", "made", right=("version",))
    for version in known:
        grid.add_row(str(version.number), version.name, version.made.isoformat(" ", "seconds"))
    results().print(grid)
