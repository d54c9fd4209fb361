"""PDF: the text layer, page after page with a form feed between them, by pypdfium2."""

from __future__ import annotations

import re

import pypdfium2

from .parsed import Parsed, ReadError, Value, one_line, storable

PAGE_BREAK = "\n\f\n"
# PDFium marks a word broken at a line's end by U+FFFE or U+0002, where the page shows a hyphen.
_BROKEN_WORD = re.compile("[\ufffe\x02](?:\r?\n)?")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_META_FIELDS = ("Author", "Subject", "Keywords")


def read_pdf(content: bytes) -> Parsed:
    """Return the text of all pages, the document's own title, and its properties with the number of pages.

    Raises:
        ReadError: for an empty, broken or encrypted file, or one without a text layer.
    """
    if not content:
        raise ReadError("empty")
    try:
        with pypdfium2.PdfDocument(content) as document:
            pages = [_page_text(document, number) for number in range(len(document))]
            properties = document.get_metadata_dict(skip_empty=True)
    except pypdfium2.PdfiumError as error:
        raise ReadError(_reason(str(error))) from None
    text = PAGE_BREAK.join(pages)
    if not text.strip():
        raise ReadError("a PDF without text, probably scanned: run OCR on it first")
    fields: dict[str, Value] = {name.lower(): one_line(properties[name]) for name in _META_FIELDS if name in properties}
    return Parsed(text, one_line(storable(properties.get("Title", ""))), {**fields, "pages": len(pages)})


def _page_text(document: pypdfium2.PdfDocument, number: int) -> str:
    page = document[number]
    textpage = page.get_textpage()
    text = _BROKEN_WORD.sub("", textpage.get_text_bounded())
    textpage.close()
    page.close()
    return storable(_CONTROL.sub("", text.replace("\r\n", "\n").replace("\r", "\n")))


def _reason(message: str) -> str:
    if "assword" in message or "ecurity" in message:
        return "an encrypted PDF: save it without a password first"
    return f"a broken PDF: {one_line(message)}"
