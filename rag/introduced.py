"""What a sentence that ends in a colon introduces: the code, the list or the table that stands behind it.

"To start it, run:" answers nothing without the command. Lines are told by how they begin, in any medium: extracted
text keeps its bullets, and a passage may end between the two, so this reads the document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence

# More than this is not quoted: a list or a table ends at a line before, a fence that would not close is left out.
MAX_CHARS = 1_000
_BLANK_LINES = 2
_FENCE = re.compile(r"[ \t]*(`{3,}|~{3,})")
_ITEM = re.compile(r"[ \t]*(?:[-*+•–]|\d{1,3}[.)]|[a-zA-Z][.)])[ \t]+\S")
_ROW = re.compile(r"[ \t]*[|+]")
_DIRECTIVE = re.compile(r"[ \t]*\.\. [\w-]+::")
_CODE_INDENT = 3


def introduced(document: str, start: int, end: int) -> int:
    """Return where that ends which the sentence `document[start:end]` introduces; `end` where it introduces nothing."""
    if not document[start:end].endswith(":"):
        return end
    lines = list(_lines(document, end))
    if not lines or document[slice(*lines[0])].strip():
        return end  # the sentence's own line goes on
    texts = [document[begin:stop].rstrip() for begin, stop in lines]
    first = next((i for i, text in enumerate(texts) if text), len(texts))
    if first > 1 + _BLANK_LINES or first == len(texts):
        return end
    count = _length(texts[first:], document[document.rfind("\n", 0, start) + 1 : end])
    if not count:
        return end
    begin, _ = lines[first + count - 1]
    return begin + len(texts[first + count - 1])


def _lines(document: str, begin: int) -> Iterator[tuple[int, int]]:
    """Ranges of the lines behind a place, without their ends, as far as `MAX_CHARS`; the first may be a part."""
    last = begin + MAX_CHARS
    while begin <= last:
        line_end = document.find("\n", begin)
        stop = len(document) if line_end < 0 else line_end
        if stop > last:
            return
        yield begin, stop
        if line_end < 0:
            return
        begin = line_end + 1


def _length(lines: Sequence[str], own: str) -> int:
    """How many of the lines belong together with the first; none where a list goes on that the sentence is part of."""
    head, inside = lines[0], _indent(lines[0])
    if fence := _FENCE.match(head):
        return next((i for i, line in enumerate(lines[1:], 2) if line.strip() == fence[1]), 0)
    if _ROW.match(head):
        return _run(lines, lambda line: bool(_ROW.match(line)))
    if _ITEM.match(head) and inside >= _indent(own) + bool(_ITEM.match(own)):
        return _run(lines, lambda line: _indent(line) > inside or (_indent(line) == inside and bool(_ITEM.match(line))))
    if _DIRECTIVE.match(head):
        return 1 + _run(lines[1:], lambda line: _indent(line) > inside)
    if inside >= _indent(own) + _CODE_INDENT:
        return _run(lines, lambda line: _indent(line) >= inside)
    return 0


def _run(lines: Sequence[str], belongs: Callable[[str], bool]) -> int:
    """How many lines belong, with blank ones between them and the rest of broken lines, which goes on in lower case."""
    count = 0
    for i, line in enumerate(lines):
        goes_on = i == count and count > 0 and line.lstrip()[:1].islower()
        if belongs(line) if line.strip() and not goes_on else goes_on:
            count = i + 1
        elif line.strip():
            break
    return count


def _indent(line: str) -> int:
    wide = line.expandtabs(4)
    return len(wide) - len(wide.lstrip())
