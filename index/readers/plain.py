"""Plain text and source code: the file is the text."""

from __future__ import annotations

from .decoding import decode
from .parsed import Parsed


def read_plain(content: bytes) -> Parsed:
    """Return the decoded file; it names no title.

    Raises:
        ReadError: see `decode`.
    """
    return Parsed(decode(content))
