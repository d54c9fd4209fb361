"""HTML: the main text, as trafilatura finds it; where it finds none, all visible text."""

from __future__ import annotations

import codecs
import re
from typing import Any

import lxml.etree
import lxml.html
import trafilatura

from .decoding import decode
from .parsed import Parsed, ReadError, Value, one_line, storable

_INVISIBLE = ("script", "style", "noscript", "template", "head", "svg")
_META_FIELDS = ("author", "date", "sitename", "description", "language")
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_META_SEARCHED_BYTES = 4096


def read_html(content: bytes) -> Parsed:
    """Return the extracted text with the page's title and the fields its markup states.

    Raises:
        ReadError: for a page that is not in the encoding it declares, cannot be parsed, or holds no text.
    """
    source = _XML_DECLARATION.sub("", decode(content, _declared_encoding(content)), count=1)
    tree = _tree(source)
    title = one_line(storable(tree.findtext(".//title") or ""))
    page: Any = trafilatura.bare_extraction(tree, include_comments=False, include_tables=True, with_metadata=True)
    # trafilatura drops short pages and bare fragments as boilerplate; a file on disk was put there to be found.
    text = storable((page.text if page is not None else None) or "")
    text = text if text.strip() else storable(_visible_text(source))
    if not text.strip():
        raise ReadError("no text in this page")
    if page is None:
        return Parsed(text, title)
    return Parsed(text, one_line(storable(page.title or "")) or title, _fields(page))


def _declared_encoding(content: bytes) -> str:
    match = _CHARSET.search(content[:_META_SEARCHED_BYTES])
    if match is None:
        return "utf-8"
    name = match[1].decode("ascii", "replace").lower()
    if name in ("iso-8859-1", "latin1", "ascii", "us-ascii"):
        return "cp1252"  # what every browser reads these labels as
    try:
        # A UTF-16 label that ASCII matching could read is wrong, and browsers take it as UTF-8 too.
        return "utf-8" if name.startswith("utf-16") else codecs.lookup(name).name
    except LookupError:
        raise ReadError(f"unknown charset {name!r}: convert the page to UTF-8") from None


def _tree(source: str) -> lxml.html.HtmlElement:
    try:
        return lxml.html.document_fromstring(source)
    except (lxml.etree.LxmlError, ValueError) as error:
        raise ReadError(f"not HTML: {one_line(str(error))}") from None


def _fields(page: Any) -> dict[str, Value]:
    values = {name: getattr(page, name, None) for name in _META_FIELDS}
    return {name: one_line(storable(value)) for name, value in values.items() if isinstance(value, str) and value}


def _visible_text(source: str) -> str:
    tree = _tree(source)
    lxml.etree.strip_elements(tree, *_INVISIBLE, with_tail=False)
    lines = (" ".join(piece.split()) for piece in tree.itertext())
    return "\n".join(line for line in lines if line)
