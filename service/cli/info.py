"""`decant info`."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from .options import DEFAULT_STORE, Debug, Json, Store
from .output import print_json, results, table
from .problem import require_store

NAME = "info"
SHORT_HELP = "Show what an index holds and which model made it."


def command(store: Store = DEFAULT_STORE, as_json: Json = False, debug: Debug = False) -> None:
    """Show what an index holds and which model made it. Loads no model and changes nothing."""
    del debug
    require_store(store)
    from ...index.store import Store as IndexStore

    with IndexStore.open(store, read_only=True) as opened:
        facts: dict[str, Any] = {"store": str(store), **opened.info()}
    if as_json:
        print_json(facts)
        return
    grid = table("", "")
    for name, value in facts.items():
        grid.add_row(Text(name.replace("_", " "), style="bold"), Text(_readable(value)))
    results().print(grid)


def _readable(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_readable(inner)}" for key, inner in value.items()) or "-"
    if isinstance(value, list | tuple):
        return ", ".join(map(_readable, value)) or "-"
    return str(value)
