"""PDF: pages, title, and what is refused."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from reportlab.lib import pdfencrypt
from reportlab.pdfgen.canvas import Canvas

from decant.index.readers.formats import Format, format_of
from decant.index.readers.isolated import Isolated
from decant.index.readers.parsed import ReadError
from decant.index.readers.pdf import PAGE_BREAK, read_pdf


def pdf_bytes(*pages: str, title: str = "", password: str = "") -> bytes:
    buffer = io.BytesIO()
    encryption = pdfencrypt.StandardEncryption(password) if password else None
    canvas = Canvas(buffer, encrypt=encryption)
    canvas.setTitle(title)
    for page in pages:
        for number, line in enumerate(page.splitlines()):
            canvas.drawString(72, 720 - 14 * number, line)
        canvas.showPage()
    canvas.save()
    return buffer.getvalue()


def test_pdf_gives_its_pages_and_title(isolated: Isolated) -> None:
    content = pdf_bytes("First page,\nsecond line", "Second page", title="A title")
    parsed = isolated.read(format_of(Path("x.PDF")) or Format("", ""), content)
    first, second = parsed.text.split(PAGE_BREAK)
    assert (first.split(), second.strip()) == (["First", "page,", "second", "line"], "Second page")
    assert (parsed.title, parsed.metadata["pages"]) == ("A title", 2)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"%PDF-1.7 and then nothing", "a broken PDF"),
        (pdf_bytes("text")[:400], "a broken PDF"),
        (pdf_bytes("secret", password="pw"), "an encrypted PDF"),
        (pdf_bytes(""), "a PDF without text"),
    ],
)
def test_pdf_without_text_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(ReadError) as caught:
        read_pdf(content)
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)
