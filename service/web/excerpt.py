"""A document's text around a range, for reading a hit or a citation where it stands."""

from __future__ import annotations

from dataclasses import dataclass

from ...embedder import InputError

# Characters shown on either side of the range; a book is not sent whole for one sentence.
AROUND = 20_000


@dataclass(frozen=True)
class Excerpt:
    """Text cut at a range; offsets count Unicode code points, which a browser's strings do not.

    Attributes:
        before: up to `AROUND` characters in front of the range.
        cited: the range itself.
        after: up to `AROUND` characters behind it.
        more_before: characters of the document in front of `before`.
        more_after: characters behind `after`.
        line: the line in which the range begins, from 1.
    """

    before: str
    cited: str
    after: str
    more_before: int
    more_after: int
    line: int


def excerpt_of(text: str, start: int, end: int, around: int = AROUND) -> Excerpt:
    """Cut a text at [start, end).

    Raises:
        InputError: the text has no such range.
    """
    if not 0 <= start <= end <= len(text):
        raise InputError(f"the document has {len(text):,} characters, no range {start} to {end}: search again")
    first, last = max(0, start - around), min(len(text), end + around)
    line = text.count("\n", 0, start) + 1
    return Excerpt(text[first:start], text[start:end], text[end:last], first, len(text) - last, line)
