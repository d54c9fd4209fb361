"""Where the prose of a passage stands: front matter, headings and table rows name a text and answer little.

Markdown's blocks are markdown-it-py's; reStructuredText's are told by blank lines and underlines, since docutils keeps
no places. A passage may begin anywhere, so a table can lack its head.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass

from markdown_it import MarkdownIt
from markdown_it.token import Token

from ..index.readers.markdown import front_matter
from ..index.readers.rst import HEADER_BLOCK

_STRUCTURE = frozenset(("heading_open", "table_open"))
_PROSE = frozenset(("paragraph_open", "fence", "code_block", "html_block"))
_MARKER = re.compile(r"(?:[ \t]*(?:[-*+]|\d{1,9}[.)]|>)(?=\s))*\s*")
_PARAGRAPH = re.compile(r"(?:[ \t]*\S[^\n]*(?:\n|\Z))+")
_UNDERLINE = re.compile(r"([^\w\s])\1{2,}[ \t]*")


@dataclass(frozen=True)
class Block:
    """`passage[start_char:end_char]`; `prose` is false of front matter, headings and tables."""

    start_char: int
    end_char: int
    prose: bool


def blocks(passage: str, media: str) -> list[Block]:
    """Cut a passage into blocks, in order; a medium whose markup is not known is one block of prose."""
    if media == "markdown":
        return list(_markdown(passage))
    if media == "rst":
        return list(_rst(passage))
    return [Block(0, len(passage), True)]


def _markdown(passage: str) -> Iterator[Block]:
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
    for found in _PARAGRAPH.finditer(passage, begin):
        lines = found[0].splitlines()
        heading = len(lines) <= 3 and any(_UNDERLINE.fullmatch(line) for line in lines)
        yield Block(found.start(), found.end(), not (heading or _is_table(found[0], "|+")))


def _is_table(text: str, borders: str) -> bool:
    return all(line.lstrip()[0] in borders for line in text.splitlines() if line.strip())
