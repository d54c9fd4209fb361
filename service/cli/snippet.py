"""The part of a passage to show for a query, and which of its words to mark."""

from __future__ import annotations

import re
from dataclasses import dataclass

SNIPPET_CHARS = 280

_WORD = re.compile(r"\w+")
_SPACE = re.compile(r"\s+")
# Words too common to be worth marking; what remains of a question is what it is about.
_COMMON = frozenset(
    "a an and are as at be been but by can could did do does for from had has have how i if in into is it its may me "
    "my no not of on or our should so than that the their them then there these they this to was we were what when "
    "where which who why will with would you your".split()
)


@dataclass(frozen=True)
class Snippet:
    """Text on one line, white space folded, and the spans of it to mark."""

    text: str
    marked: tuple[tuple[int, int], ...]


def snippet_of(passage: str, query: str, limit: int = SNIPPET_CHARS) -> Snippet:
    """Cut the stretch of at most `limit` characters that holds the most different words of the query.

    Among equals the first wins, so a passage without any of the words is shown from its beginning.
    """
    text = _SPACE.sub(" ", passage).strip()
    wanted = _content_words(query)
    spans = [(m.start(), m.end(), _match(m.group(), wanted)) for m in _WORD.finditer(text)]
    found = [(start, end, word) for start, end, word in spans if word is not None]
    first, last = _best_window(found, len(text), limit)
    first, last = _to_words(text, first, last)
    lead, tail = "… " if first else "", " …" if last < len(text) else ""
    shift = len(lead) - first
    marked = tuple((s + shift, e + shift) for s, e, _ in found if s >= first and e <= last)
    return Snippet(lead + text[first:last] + tail, marked)


def _content_words(query: str) -> tuple[str, ...]:
    words = [word.casefold() for word in _WORD.findall(query)]
    return tuple(dict.fromkeys(w for w in words if w not in _COMMON)) or tuple(dict.fromkeys(words))


def _match(word: str, wanted: tuple[str, ...]) -> str | None:
    """Return the word of the query that `word` is a form of."""
    folded = word.casefold()
    return next((other for other in wanted if _same_word(folded, other)), None)


def _same_word(one: str, other: str) -> bool:
    """Whether two words are equal but for an ending of up to three letters: index, indexes, indexing."""
    if one == other:
        return True
    shorter = min(len(one), len(other))
    if shorter < 4 or abs(len(one) - len(other)) > 3:
        return False
    return one[: max(4, shorter - 1)] == other[: max(4, shorter - 1)]


def _best_window(found: list[tuple[int, int, str]], length: int, limit: int) -> tuple[int, int]:
    if length <= limit or not found:
        return 0, min(length, limit)
    margin = limit // 4
    starts = [0, *(max(0, start - margin) for start, _, _ in found)]
    starts = [min(start, length - limit) for start in starts]

    def worth(start: int) -> tuple[int, int]:
        inside = [word for s, e, word in found if s >= start and e <= start + limit]
        return len(set(inside)), len(inside)

    best = max(starts, key=lambda start: (*worth(start), -start))
    return best, best + limit


def _to_words(text: str, first: int, last: int) -> tuple[int, int]:
    """Shrink a window so that it cuts no word, where a space is near."""
    if first:
        space = text.find(" ", first, first + 30)
        first = space + 1 if space >= 0 else first
    if last < len(text):
        space = text.rfind(" ", last - 30, last)
        last = space if space >= 0 else last
    return first, last
