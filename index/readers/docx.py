"""Word documents as Markdown: headings, paragraphs, lists and tables in reading order, by python-docx."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator

import docx
from docx.document import Document as WordDocument
from docx.opc.exceptions import OpcError
from docx.table import Table
from docx.text.paragraph import Paragraph
from lxml.etree import LxmlError

from .parsed import Parsed, ReadError, Value, one_line, storable

# A few kilobytes of zip can unfold to any size; no real document's text comes near this.
MAX_UNPACKED_BYTES = 512 << 20
_TITLE_STYLES = ("Title", "Heading 1", "Heading 2")
_HEADING = re.compile(r"Title|Heading ([1-9])")
_LIST_STYLE = re.compile(r"List (?:Bullet|Number)(?: ([2-5]))?")
_META_FIELDS = ("author", "subject", "keywords", "category", "language")
_ENCRYPTED_MARK = b"\xd0\xcf\x11\xe0"


def read_docx(content: bytes) -> Parsed:
    """Return the text as Markdown, which has no more marks than headings, lists and tables need, and its properties.

    Headers, footers, notes, comments and text boxes are left out.

    Raises:
        ReadError: for an empty, broken or encrypted file, or one without text.
    """
    document = _open(content)
    text = storable("".join(_joined(document)).strip())
    if not text.strip():
        raise ReadError("no text in this document")
    properties = document.core_properties
    title = one_line(storable(properties.title)) or _first_heading(document)
    values = {name: storable(getattr(properties, name) or "") for name in _META_FIELDS}
    fields: dict[str, Value] = {name: one_line(value) for name, value in values.items() if value}
    return Parsed(text, title, fields)


def _open(content: bytes) -> WordDocument:
    if not content:
        raise ReadError("empty")
    if content.startswith(_ENCRYPTED_MARK):
        raise ReadError("an encrypted or old .doc file: save it as plain .docx first")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked > MAX_UNPACKED_BYTES:
            raise ReadError(f"unpacks to {unpacked} bytes, over the limit of {MAX_UNPACKED_BYTES}")
        return docx.Document(io.BytesIO(content))
    except (zipfile.BadZipFile, OpcError, LxmlError, KeyError, ValueError, EOFError, NotImplementedError) as error:
        raise ReadError(f"a broken .docx: {one_line(str(error))}") from None


def _joined(document: WordDocument) -> Iterator[str]:
    """Blocks with what parts each from the one before it: nothing but a line end between items of a list."""
    in_list = False
    for block in document.iter_inner_content():
        text, is_item = _paragraph(block) if isinstance(block, Paragraph) else ("\n".join(_rows(block)), False)
        if text.strip():
            yield "\n" if is_item and in_list else "\n\n"
            yield text
            in_list = is_item


def _paragraph(paragraph: Paragraph) -> tuple[str, bool]:
    """A paragraph, and whether it is an item of a list."""
    text = paragraph.text.strip()  # by tabs at its begin it would be code
    style = _style(paragraph)
    if heading := _HEADING.fullmatch(style):
        level = min(int(heading[1] or 1), 6)
        return f"{'#' * level} {_one_line(text)}" if text else "", False
    depth = _list_depth(paragraph, style)
    return (f"{'  ' * depth}- {_one_line(text)}", True) if text and depth is not None else (text, False)


def _list_depth(paragraph: Paragraph, style: str) -> int | None:
    """How deep in lists an item is, from 0; None of other paragraphs. Own numbering goes before a style's."""
    properties = paragraph._p.pPr  # pyright: ignore[reportPrivateUsage]  (has no public name)
    numbering = None if properties is None else properties.numPr
    if numbering is not None and numbering.numId is not None:
        level = 0 if numbering.ilvl is None else numbering.ilvl.val
        return level if numbering.numId.val else None
    named = _LIST_STYLE.fullmatch(style)
    return int(named[1] or 1) - 1 if named else None


def _style(paragraph: Paragraph) -> str:
    return (paragraph.style.name if paragraph.style is not None else None) or ""


def _rows(table: Table) -> Iterator[str]:
    for number, row in enumerate(table.rows):
        # A merged cell stands in every grid position it covers; its text counts once.
        cells = {id(cell): cell.text for cell in row.cells}
        yield "| " + " | ".join(_one_line(text).replace("|", r"\|") for text in cells.values()) + " |"
        if not number:
            yield "|" + " --- |" * len(cells)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _first_heading(document: WordDocument) -> str:
    for style in _TITLE_STYLES:
        for paragraph in document.paragraphs:
            if _style(paragraph) == style and paragraph.text.strip():
                return one_line(storable(paragraph.text))
    return ""
