"""What a reader gives, and how it says that it cannot."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ...embedder.errors import DecantError

Value = str | int | float | bool
_INT64 = 2**63


class ReadError(DecantError):
    """A file or record that cannot be turned into text; the message is the reason, without the file's name."""


@dataclass(frozen=True)
class Parsed:
    """The text of one file or record.

    Attributes:
        text: what is stored and searched; offsets count its code points.
        title: from the content; empty where it names none.
        metadata: fields the content states about itself.
    """

    text: str
    title: str = ""
    metadata: dict[str, Value] = field(default_factory=dict[str, Value])


def as_value(value: Value) -> Value:
    """A field as it can be stored: numbers that are none, infinite, or whole and beyond 64 bits become their text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return str(value) if isinstance(value, int) and not -_INT64 <= value < _INT64 else value


def one_line(text: str, limit: int = 200) -> str:
    """Return `text` on one line, cut to `limit` characters at a word."""
    line = " ".join(text.split())
    if len(line) <= limit:
        return line
    return line[:limit].rsplit(" ", 1)[0] + " …"


def storable(text: str) -> str:
    """Replace what no UTF-8 file can hold (lone surrogates, which PDF fonts do yield) by U+FFFD."""
    return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
