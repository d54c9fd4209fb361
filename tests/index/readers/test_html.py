"""Pages: the main part as Markdown."""

from __future__ import annotations

import pytest

from decant.index.readers.html import read_html
from decant.index.readers.parsed import ReadError

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
