"""reStructuredText: the source is the text, so offsets are the file's; docutils finds the title."""

from __future__ import annotations

import re
from email.parser import HeaderParser

from docutils import nodes
from docutils.core import publish_doctree

from .decoding import decode
from .parsed import Parsed, Value, one_line

_HEAD_CHARS = 6_000
# The RFC 822 style block that PEPs and some READMEs begin with.
HEADER_BLOCK = re.compile(r"(?:[A-Z][A-Za-z-]*:(?:[ \t].*)?\r?\n(?:[ \t]+\S.*\r?\n)*){2,}(?=\r?\n)")
_QUIET = {
    "report_level": 5,
    "halt_level": 6,
    "warning_stream": False,
    # A document must not read other files of the machine into the index.
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "_disable_config": True,
}


def read_rst(content: bytes) -> Parsed:
    """Return the source with its title (header block or first section) and the header block's fields.

    Raises:
        ReadError: see `decode`.
    """
    text = decode(content)
    fields = _header_fields(text)
    title = fields.pop("title", "")
    return Parsed(text, one_line(str(title)) if title else _first_section(text), fields)


def _header_fields(text: str) -> dict[str, Value]:
    match = HEADER_BLOCK.match(text)
    if match is None:
        return {}
    return {key.lower(): one_line(str(value)) for key, value in HeaderParser().parsestr(match[0]).items()}


def _first_section(text: str) -> str:
    head = text[:_HEAD_CHARS]
    if len(head) < len(text):
        head = head[: head.rfind("\n") + 1]
    tree = publish_doctree(head, settings_overrides=_QUIET)
    for node in tree.findall(lambda n: isinstance(n, (nodes.title, nodes.subtitle))):
        if isinstance(node.parent, (nodes.document, nodes.section)):
            return one_line(node.astext())
    return ""
