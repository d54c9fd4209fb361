"""Word documents: paragraphs and tables in reading order, by python-docx."""

from __future__ import annotations

import io
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
_META_FIELDS = ("author", "subject", "keywords", "category", "language")
_ENCRYPTED_MARK = b"\xd0\xcf\x11\xe0"


def read_docx(content: bytes) -> Parsed:
    """Return paragraphs separated by blank lines, table rows one a line, with the core properties.

    Headers, footers, notes, comments and text boxes are left out.

    Raises:
        ReadError: for an empty, broken or encrypted file, or one without text.
    """
    document = _open(content)
    text = storable("\n\n".join(block for block in _blocks(document) if block.strip()))
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


def _blocks(document: WordDocument) -> Iterator[str]:
    for block in document.iter_inner_content():
        if isinstance(block, Paragraph):
            yield block.text
        else:
            yield "\n".join(_rows(block))


def _rows(table: Table) -> Iterator[str]:
    for row in table.rows:
        # A merged cell stands in every grid position it covers; its text counts once.
        cells = {id(cell): cell.text for cell in row.cells}
        yield " | ".join(" ".join(text.split()) for text in cells.values())


def _first_heading(document: WordDocument) -> str:
    for style in _TITLE_STYLES:
        for paragraph in document.paragraphs:
            if paragraph.style is not None and paragraph.style.name == style and paragraph.text.strip():
                return one_line(storable(paragraph.text))
    return ""
