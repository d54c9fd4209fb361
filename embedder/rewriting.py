"""What is done to a text before anything is put around it."""

from __future__ import annotations

from .spec import Rewrite

_ENDS = tuple(".?!\"'")


def rewritten(text: str, how: Rewrite) -> str:
    """Return the text as `how` says; an empty one stays empty, for it has nothing to encode."""
    if how is Rewrite.NONE or not text:
        return text
    closed = text if text.endswith(_ENDS) else text + "."
    return closed.replace('"', "'").replace("_", " ")
