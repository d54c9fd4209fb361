"""Where the prose of a passage stands: front matter, headings, table rows and code by itself answer little.

Markdown's blocks are markdown-it-py's; reStructuredText's are told by blank lines and underlines, since docutils keeps
no places.

What was extracted from PDF has lost its markup: there a heading is a short line that ends no sentence and continues
none. A passage may begin anywhere, so a table can lack its head.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ..index.documents import MARKDOWN_MEDIA
from ..index.readers.markdown import front_matter
from ..index.readers.rst import HEADER_BLOCK

_STRUCTURE = frozenset(("heading_open", "table_open", "fence", "code_block"))
_PROSE = frozenset(("paragraph_open", "html_block"))
_MARKER = re.compile(r"(?:[ \t]*(?:[-*+]|\d{1,9}[.)]|>)(?=\s))*\s*")
_PARAGRAPH = re.compile(r"(?:[ \t]*\S[^\n]*(?:\n|\Z))+")
# With what may stand before it in a list or a quotation.
_FENCE = re.compile(r"^[ \t>]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?(`{3,}|~{3,})([^\n]*)$", re.MULTILINE)
_CODE_DIRECTIVE = re.compile(r"[ \t]*\.\. (?:code|code-block|sourcecode|parsed-literal)::")
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}[ \t]*")
_LINE = re.compile(r"[^\r\n\f]*\S[^\r\n\f]*")
_CLOSED = tuple(".?!:;,…。！？")
_HEADING_WORDS = 12
# Of the longest line: a page's full lines are about equally long, and a heading seldom fills one.
_HEADING_WIDTH = 0.7


@dataclass(frozen=True)
class Block:
    """`passage[start_char:end_char]`; `prose` is false of front matter, headings, tables and code."""

    start_char: int
    end_char: int
    prose: bool


def open_fence(before: str) -> str:
    """The fence of the code that a Markdown text ends within; empty where it ends outside of code."""
    fence = ""
    for found in _FENCE.finditer(before):
        mark, info = found[1], found[2].strip()
        if not fence and not (mark[0] == "`" and "`" in info):
            fence = mark
        elif fence and mark.startswith(fence) and not info:
            fence = ""
    return fence


def blocks(passage: str, media: str, fence: str = "") -> list[Block]:
    """Cut a passage into blocks, in order; a medium whose markup is not known is one block of prose.

    `fence` is that of the code which a passage of Markdown begins in the middle of, see `open_fence`.
    """
    if media in MARKDOWN_MEDIA:
        return list(_markdown(passage, fence))
    if media == "rst":
        return list(_rst(passage))
    if media == "pdf":
        return list(_extracted(passage))
    return [Block(0, len(passage), True)]


def _markdown(passage: str, fence: str) -> Iterator[Block]:
    if fence:
        closing = (
            found.end() for found in _FENCE.finditer(passage) if found[1].startswith(fence) and not found[2].strip()
        )
        begin = next(closing, len(passage))
    else:
        begin = len(passage) - len(front_matter(passage)[1])
    if begin:
        yield Block(0, begin, False)
    body = passage[begin:]
    # markdown-it counts these line ends and no others.
    lengths = [len(line) for line in re.split(r"(?<=\n)|(?<=\r)(?!\n)", body)]
    starts = list(itertools.accumulate(lengths, initial=begin))
    for token in MarkdownIt("commonmark").enable("table").parse(body):
        if token.map is None or token.type not in _STRUCTURE | _PROSE:
            continue
        start, end = starts[token.map[0]], starts[min(token.map[1], len(starts) - 1)]
        yield from _leaf(passage, start, end, token)


def _leaf(passage: str, start: int, end: int, token: Token) -> Iterator[Block]:
    """A block that holds no other; a table by its rows, a list item without its bullet."""
    paragraph = token.type == "paragraph_open"
    if paragraph and (marker := _MARKER.match(passage, start, end)):
        start = marker.end()
    if token.type == "table_open" or (paragraph and _is_table(passage[start:end], "|")):
        for line in re.finditer(r"[^\r\n]+", passage[start:end]):
            yield Block(start + line.start(), start + line.end(), False)
    else:
        yield Block(start, end, token.type in _PROSE)


def _rst(passage: str) -> Iterator[Block]:
    header = HEADER_BLOCK.match(passage)
    begin = header.end() if header else 0
    if begin:
        yield Block(0, begin, False)
    literal: int | None = None
    for found in _PARAGRAPH.finditer(passage, begin):
        lines = found[0].splitlines()
        indent = len(found[0]) - len(found[0].lstrip())
        if literal is None or indent <= literal:
            code = bool(_CODE_DIRECTIVE.match(found[0]))
            announced = lines[-1].rstrip().endswith("::") and not found[0].lstrip().startswith("..")
            literal = indent if code or announced else None
        else:
            code = True
        heading = len(lines) <= 3 and any(_UNDERLINE.fullmatch(line) for line in lines)
        yield Block(found.start(), found.end(), not (code or heading or _is_table(found[0], "|+")))


def _extracted(passage: str) -> Iterator[Block]:
    """Where a page's edge broke paragraphs: headings, and what stands between them."""
    lines = list(_LINE.finditer(passage))
    longest = max((len(line[0]) for line in lines), default=0)
    begin = end = -1
    before = ""
    for line in lines:
        paragraph_ends = not before or before.endswith(_CLOSED) or passage.count("\n", end, line.start()) > 1
        short = len(line[0]) <= _HEADING_WIDTH * longest
        heading = _looks_like_heading(line[0].strip()) and short and paragraph_ends
        if begin >= 0 and heading:
            yield Block(begin, end, True)
            begin = -1
        if heading:
            yield Block(line.start(), line.end(), False)
        elif begin < 0:
            begin = line.start()
        end, before = line.end(), "" if heading else line[0].rstrip()
    if begin >= 0:
        yield Block(begin, end, True)


def _looks_like_heading(line: str) -> bool:
    opens = line[0].isupper() or line[0].isdigit()
    return opens and not line.endswith(_CLOSED) and len(line.split()) <= _HEADING_WORDS


def _is_table(text: str, borders: str) -> bool:
    return all(line.lstrip()[0] in borders for line in text.splitlines() if line.strip())
