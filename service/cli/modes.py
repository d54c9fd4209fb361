"""Names of the ways to search, checked before anything is loaded; what one index offers is checked by the index."""

from __future__ import annotations

import typer

# The same as in index.modes, which cannot be imported at once without its libraries.
SINGLE = ("dense", "lexical", "sparse", "router", "moee")
HYBRID = "hybrid"


def checked_modes(modes: str, option: str) -> list[str]:
    """The modes of a list with commas between.

    Raises:
        BadParameter: one that is none.
    """
    chosen = [name.strip() for name in modes.split(",") if name.strip()]
    unknown = [mode for mode in chosen if mode != HYBRID and not set(mode.split("+")) <= set(SINGLE)]
    if unknown or not chosen:
        raise typer.BadParameter(
            f"{', '.join(unknown) or 'nothing'}: choose from 'dense', 'lexical', 'hybrid', 'sparse', 'router', 'moee', "
            "or join some with +",
            param_hint=option,
        )
    return chosen
