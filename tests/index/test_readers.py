"""Readers: what each format gives, and one line for each file that gives nothing."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import docx
import pytest
from reportlab.lib import pdfencrypt
from reportlab.pdfgen.canvas import Canvas

from decant.index.readers.decoding import decode
from decant.index.readers.docx import read_docx
from decant.index.readers.formats import Format, format_of
from decant.index.readers.html import read_html
from decant.index.readers.isolated import Isolated
from decant.index.readers.jsonl import BadRecord, Record, read_records
from decant.index.readers.markdown import read_markdown
from decant.index.readers.parsed import Parsed, ReadError
from decant.index.readers.pdf import PAGE_BREAK, read_pdf
from decant.index.readers.plain import read_plain
from decant.index.readers.rst import read_rst


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


@pytest.fixture(scope="module")
def isolated() -> Iterator[Isolated]:
    with Isolated(seconds=30) as worker:
        yield worker


# Decoding


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("naïve ☃ 𝔘".encode(), "naïve ☃ 𝔘"),
        ("\ufeffwith mark".encode(), "with mark"),
        ("wide ☃".encode("utf-16"), "wide ☃"),
        (b"\xfe\xff" + "wide ☃".encode("utf-16-be"), "wide ☃"),
        (b"one\r\ntwo\rthree\n", "one\r\ntwo\rthree\n"),
    ],
)
def test_text_is_decoded_with_its_line_ends(content: bytes, text: str) -> None:
    assert decode(content) == text


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b" \n\t\n", "empty"),
        ("\ufeff".encode(), "empty"),
        ("plain then caf\xe9 au lait".encode("latin-1"), "not UTF-8 at byte 14"),
        (b"\xef\xbb\xbfab\xff", "not UTF-8 at byte 5"),
        (b"\xff\xfea\x00b", "not UTF-16-LE at byte 4"),
        (b"\x7fELF\x02\x01\x01\x00\x00", "binary content (a zero byte at byte 7)"),
        ("x".encode("utf-32"), "UTF-32"),
    ],
)
def test_what_is_no_text_says_where(content: bytes, reason: str) -> None:
    with pytest.raises(ReadError) as caught:
        decode(content)
    assert str(caught.value).startswith(reason)


# Formats whose source is the text


@pytest.mark.parametrize(
    ("source", "title", "metadata"),
    [
        ("---\ntitle: A *b*\ntags: [a]\ndraft: true\ndate: 2024-05-06\n---\n# Other\n", "A *b*",
         {"draft": True, "date": "2024-05-06"}),
        ("intro\n\n# The `first` [heading](x.md)\n\n# Second\n", "The first heading", {}),
        ("## Lower\n\n# Higher\n", "Higher", {}),
        ("Setext\n======\ntext\n", "Setext", {}),
        ("```\n# in code\n```\n", "", {}),
        ("---\nno: [valid yaml\n---\n# Title\n", "Title", {}),
        ("---\n\na thematic break\n\n---\n", "", {}),
    ],
)  # fmt: skip
def test_markdown_keeps_its_source_and_finds_its_title(source: str, title: str, metadata: dict[str, object]) -> None:
    assert read_markdown(source.encode()) == Parsed(source, title, metadata)


@pytest.mark.parametrize(
    ("source", "title", "metadata"),
    [
        ("PEP: 8\nTitle: Style Guide\nAuthor: A,\n        B\nPost-History:\n\nIntro\n=====\n", "Style Guide",
         {"pep": "8", "author": "A, B", "post-history": ""}),
        ("=====\nBig *T*\n=====\n\ntext\n\nSub\n---\n", "Big T", {}),
        (".. unknown-directive:: x\n\nFirst\n=====\n\nSecond\n======\n", "First", {}),
        (".. include:: /etc/hostname\n\njust text\n", "", {}),
        ("Note: one line that looks like a header\n\ntext\n", "", {}),
    ],
)  # fmt: skip
def test_rst_keeps_its_source_and_finds_its_title(source: str, title: str, metadata: dict[str, object]) -> None:
    assert read_rst(source.encode()) == Parsed(source, title, metadata)


def test_code_is_kept_as_it_is() -> None:
    assert read_plain(b"def f():\r\n\treturn 1\r\n").text == "def f():\r\n\treturn 1\r\n"


# HTML


ARTICLE = "<p>" + "A paragraph that is long enough to be taken for an article's main text. " * 8 + "</p>"


def test_html_gives_its_main_text_and_title() -> None:
    page = "<html lang=en><head><title>The &amp; title</title><script>x()</script></head><body><nav>Home | About</nav>"
    page += f"<article><h1>The &amp; title</h1>{ARTICLE}</article><footer>Imprint</footer></body></html>"
    parsed = read_html(page.encode())
    assert parsed.title == "The & title"
    assert "main text" in parsed.text
    assert "Home" not in parsed.text and "x()" not in parsed.text


PAGE = """<html><head><title>Kettles</title><meta name="author" content="Ann Bee"></head><body>
<nav>Home</nav><MAIN>
<h1>Kettles <a href="#k">¶</a></h1><nav>On this page</nav>
<p>A <b>kettle</b> boils <em>water</em>, see <a href="/tea">tea</a>. Run:<button>copy</button></p>
<figure><pre><code class="language-sh">kettle --start
  kettle --wait *now*</code></pre><figcaption>Listing 1</figcaption></figure>
<ul><li>quick</li><li>slow<ul><li>for eggs</li></ul></li></ul>
<table><tr><th>Part</th><th>Price</th></tr><tr><td>Lid</td><td>4</td></tr></table>
<p hidden>Secret</p><p>Use <code>snake_case_names</code> &lt;always&gt;.</p><img alt="a kettle" src="k.png"></MAIN>
<footer>Imprint</footer></body></html>"""


@pytest.mark.parametrize(
    ("begin", "end"), [("<main>", "</main>"), ("<div role=main>", "</div>"), ("<article>", "</article>")]
)
def test_the_main_part_of_a_page_is_markdown_and_whole(begin: str, end: str) -> None:
    parsed = read_html(PAGE.replace("<MAIN>", begin).replace("</MAIN>", end).encode())
    assert parsed.text == (
        "# Kettles\n\nA kettle boils water, see tea. Run:\n\n```sh\nkettle --start\n  kettle --wait *now*\n```\n\n"
        "Listing 1\n\n- quick\n- slow\n  - for eggs\n\n| Part | Price |\n| --- | --- |\n| Lid | 4 |\n\n"
        "Use `snake_case_names` <always>."
    )
    assert (parsed.title, parsed.metadata["author"]) == ("Kettles", "Ann Bee")


def test_a_page_that_does_not_say_which_part_is_the_main_one_keeps_its_lists_and_code() -> None:
    lists = "<p>It has these modes:</p><ul><li>quick, for tea</li><li>slow, for eggs</li></ul>"
    lists += "<pre><code>boil --now\nwait</code></pre>"
    for body in (f"<div>{ARTICLE}{lists}</div>", f"<article>{ARTICLE}</article><article>{ARTICLE}{lists}</article>"):
        text = read_html(f"<html><body>{body}</body></html>".encode()).text
        assert "- quick, for tea\n- slow, for eggs" in text
        assert "```\nboil --now\nwait\n```" in text


def test_a_page_is_read_however_deep_it_is() -> None:
    parsed = read_html(("<main>" + "<div>" * 240 + "<p>At the bottom of the page</p>").encode())
    assert "At the bottom of the page" in parsed.text


def test_a_fragment_gives_all_its_visible_text() -> None:
    parsed = read_html(b"<title>T</title><p>short <b>text</b></p><style>p{}</style>")
    assert (parsed.text.split(), parsed.title) == (["short", "text"], "T")


def test_html_is_read_in_the_encoding_it_declares() -> None:
    assert read_html("<meta charset='iso-8859-1'><p>caf\xe9</p>".encode("latin-1")).text.strip() == "caf\xe9"
    assert read_html("<meta charset=shift_jis><p>日本</p>".encode("shift_jis")).text.strip() == "日本"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"<html><body></body></html>", "no text in this page"),
        (b"<p>caf\xe9</p>", "not UTF-8 at byte 6"),
        (b"<meta charset=klingon><p>x</p>", "unknown charset 'klingon'"),
        (b"<p>\0</p>", "binary content"),
    ],
)
def test_html_without_text_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(ReadError, match=reason):
        read_html(content)


# PDF


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


# Word


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


# JSON lines


def lines(*records: object) -> list[bytes]:
    return [r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records]


def test_records_are_documents() -> None:
    found = list(
        read_records(
            lines(
                {"_id": "a", "title": "T", "text": "one", "year": 1999, "tags": ["x"], "none": None},
                b"\n",
                {"id": 7, "text": "two", "metadata": {"lang": "en", "ok": True, "huge": 2**70}},
                {"text": "three"},
            )
        )
    )
    assert all(isinstance(record, Record) for record in found)
    assert [(r.line, r.key, r.parsed) for r in found if isinstance(r, Record)] == [
        (1, "a", Parsed("one", "T", {"year": 1999, "tags": '["x"]'})),
        (3, "7", Parsed("two", "", {"lang": "en", "ok": True, "huge": str(2**70)})),
        (4, "4", Parsed("three")),
    ]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "cut', "not JSON"),
        (b"[1, 2]", "not a JSON object"),
        (b'{"title": "no text"}', "no field 'text'"),
        (b'{"text": 5}', "no field 'text'"),
        (b'{"text": "  "}', "empty"),
        (b'{"text": "caf\xe9"}', "not UTF-8 at byte 13 of the line"),
        (b'{"text": "half \\ud83d pair"}', "half of a surrogate pair"),
        (b'{"text": "x", "title": "\\udc00"}', "half of a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
        (b'{"_id": "first", "text": "again"}', "id 'first' is taken by line 1"),
    ],
)
def test_a_bad_record_costs_only_itself(line: bytes, reason: str) -> None:
    first, bad, last = read_records(lines({"_id": "first", "text": "x"}, line + b"\n", {"_id": "last", "text": "y"}))
    assert isinstance(first, Record) and isinstance(last, Record)
    assert isinstance(bad, BadRecord) and bad.line == 2 and bad.reason.startswith(reason)


# Isolation


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "hostile.py").write_text(
        "import os, time, re\n"
        "def hang(content): re.match('(a+)+$', 'a' * 60 + 'b')\n"
        "def crash(content): os.kill(os.getpid(), 11)\n"
        "def bloat(content): return bytearray(64 << 30)\n"
        "def noise(content): os.write(1, b'noise'); print('noise'); raise ValueError('two\\nlines')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "hostile"


def test_a_parser_that_hangs_crashes_or_bloats_costs_its_file_only(hostile: str) -> None:
    with Isolated(seconds=1.0) as worker:
        reasons = []
        for name in ("hang", "crash", "bloat", "noise"):
            with pytest.raises(ReadError) as caught:
                worker.read(Format("", f"{hostile}:{name}"), b"content")
            reasons.append(str(caught.value))
        assert worker.read(Format("", ".plain:read_plain"), b"still alive").text == "still alive"
    assert reasons == [
        "parsing took longer than 1 s",
        "the parser crashed (exit status -11)",
        "parsing needs too much memory",
        "the parser failed: ValueError: two lines",
    ]


def test_megabytes_pass_to_the_worker_and_back(isolated: Isolated) -> None:
    text = "line ☃\n" * 400_000
    assert isolated.read(Format("", ".plain:read_plain"), text.encode()).text == text


# Formats by name


@pytest.mark.parametrize(
    ("name", "media"),
    [
        ("a.txt", "text"),
        ("A.MD", "markdown"),
        ("x.tar.rst", "rst"),
        ("x.HTM", "html"),
        ("m.py", "code:python"),
        ("README", "text"),
        ("Makefile", "code:make"),
        ("x.jsonl", "jsonl"),
        ("x.png", None),
        ("x", None),
    ],
)
def test_the_format_follows_from_the_name(name: str, media: str | None) -> None:
    found = format_of(Path(name))
    assert (found.media if found else None) == media


def test_numbers_that_cannot_be_stored_become_text():
    """They would stop a whole batch at the store's door."""
    parsed = read_markdown(f"---\nrating: .nan\nhigh: -.inf\nid: {2**63}\nyear: {2**63 - 1}\n---\ntext\n".encode())
    assert parsed.metadata == {"rating": "nan", "high": "-inf", "id": str(2**63), "year": 2**63 - 1}
