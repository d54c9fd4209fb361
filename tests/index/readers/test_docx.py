"""Word documents: Markdown, and what is refused."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import docx
import pytest

from decant.index.readers.docx import read_docx
from decant.index.readers.formats import Format, format_of
from decant.index.readers.isolated import Isolated
from decant.index.readers.parsed import ReadError


def docx_bytes(build: str = "full") -> bytes:
    document = docx.Document()
    if build == "full":
        document.core_properties.title = ""
        document.core_properties.keywords = "fruit, trees"
        document.add_heading("Orchards", level=1)
        document.add_paragraph("Before the table.")
        table = document.add_table(rows=2, cols=2)
        for cell, text in zip(table.row_cells(0), ("kind", "colour"), strict=True):
            cell.text = text
        table.cell(1, 0).merge(table.cell(1, 1)).text = "merged"
        document.add_paragraph("After the table.")
    buffer = io.BytesIO()
    document.save(buffer)
    return buffer.getvalue()


def test_docx_gives_paragraphs_and_tables_in_order(isolated: Isolated) -> None:
    parsed = isolated.read(format_of(Path("x.docx")) or Format("", ""), docx_bytes())
    table = "| kind | colour |\n| --- | --- |\n| merged |"
    assert parsed.text == f"# Orchards\n\nBefore the table.\n\n{table}\n\nAfter the table."
    assert parsed.title == "Orchards"
    assert parsed.metadata["keywords"] == "fruit, trees"


def test_docx_is_markdown() -> None:
    document = docx.Document()
    document.add_paragraph("Fruit", style="Title")
    document.add_heading("Of\ntrees", level=2)
    document.add_paragraph("\tIndented, and\nbroken.")
    for text, style in (("apple", "List Bullet"), ("red", "List Bullet 2"), ("pear", "List Number"), (" ", "Normal")):
        document.add_paragraph(text, style=style)
    document.add_paragraph("No item.", style="List Paragraph")
    numbered = document.add_paragraph("plum")
    numbered._p.get_or_add_pPr().get_or_add_numPr().get_or_add_numId().val = 3
    numbered._p.pPr.numPr.get_or_add_ilvl().val = 1
    unnumbered = document.add_paragraph("Not any more.", style="List Bullet")
    unnumbered._p.get_or_add_pPr().get_or_add_numPr().get_or_add_numId().val = 0
    document.add_table(rows=1, cols=1).cell(0, 0).text = "a|b\nc"
    buffer = io.BytesIO()
    document.save(buffer)
    parsed = read_docx(buffer.getvalue())
    assert parsed.text == (
        "# Fruit\n\n## Of trees\n\nIndented, and\nbroken.\n\n- apple\n  - red\n- pear\n\nNo item.\n\n"
        "  - plum\n\nNot any more.\n\n| a\\|b c |\n| --- |"
    )
    assert parsed.title == "Fruit"


def zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("word/document.xml", "w") as entry:
        for _ in range(600):
            entry.write(bytes(1 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"PK\3\4 cut", "a broken .docx"),
        (docx_bytes()[:2000], "a broken .docx"),
        (b"\xd0\xcf\x11\xe0 old", "an encrypted or old .doc"),
        (docx_bytes("bare"), "no text in this document"),
        (zip_bomb(), "unpacks to 629145600 bytes"),
    ],
)
def test_docx_without_text_says_why(isolated: Isolated, content: bytes, reason: str) -> None:
    with pytest.raises(ReadError) as caught:
        isolated.read(format_of(Path("x.docx")) or Format("", ""), content)
    assert str(caught.value).startswith(reason)


def test_a_zip_that_is_no_document_is_refused(isolated: Isolated) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(ReadError, match="a broken .docx"):
        isolated.read(format_of(Path("x.docx")) or Format("", ""), buffer.getvalue())
