"""Text, Markdown, reStructuredText and code: the source is the text; and which format a name has."""

from __future__ import annotations

from pathlib import Path

import pytest

from decant.index.readers.decoding import decode
from decant.index.readers.formats import format_of
from decant.index.readers.markdown import read_markdown
from decant.index.readers.parsed import Parsed, ReadError
from decant.index.readers.plain import read_plain
from decant.index.readers.rst import read_rst


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
