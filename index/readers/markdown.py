"""Markdown: the source is the text, so offsets are the file's; title and metadata come from its head."""

from __future__ import annotations

import datetime
import re
from typing import Any

import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token

from .decoding import decode
from .parsed import Parsed, Value, as_value, one_line

_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n(.*?)(?:\r?\n)(?:---|\.\.\.)[ \t]*(?:\r?\n|\Z)", re.DOTALL)
# A title stands near the top; parsing whole books for it would cost more than chunking them.
_HEAD_CHARS = 20_000


def read_markdown(content: bytes) -> Parsed:
    """Return the source with the title of its front matter or first heading, and the front matter's plain fields.

    Raises:
        ReadError: see `decode`.
    """
    text = decode(content)
    fields, body = front_matter(text[:_HEAD_CHARS])
    title = fields.pop("title", None)
    return Parsed(text, one_line(str(title)) if title else _first_heading(body), fields)


def front_matter(head: str) -> tuple[dict[str, Value], str]:
    """Return the plain fields of the YAML that a text begins with, and what follows it."""
    match = _FRONT_MATTER.match(head)
    if match is None:
        return {}, head
    try:
        document: Any = yaml.safe_load(match[1])
    except (yaml.YAMLError, ValueError):
        return {}, head  # a thematic break and prose, or a template: text like any other
    if not isinstance(document, dict):
        return {}, head
    fields = {str(key): plain for key, value in document.items() if (plain := _plain(value)) is not None}
    return fields, head[match.end() :]


def _plain(value: object) -> Value | None:
    if isinstance(value, (str, int, float)):
        return as_value(value)
    if isinstance(value, (datetime.date, datetime.datetime)):
        return value.isoformat()
    return None


def _first_heading(source: str) -> str:
    """Return the highest heading of `source`, the first of its level, as plain text; empty where there is none."""
    tokens = MarkdownIt("commonmark").parse(source)
    headings = [(t.tag, tokens[i + 1]) for i, t in enumerate(tokens) if t.type == "heading_open"]
    if not headings:
        return ""
    return one_line(_plain_text(min(headings, key=lambda h: h[0])[1]))


def _plain_text(inline: Token) -> str:
    return "".join(" " if t.type == "softbreak" else t.content for t in inline.children or ())
