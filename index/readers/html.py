"""HTML: the page's main part as Markdown, so that headings, lists, tables and code stay what they are.

What a page marks as its main part is taken whole, by markdownify. Where it marks none, trafilatura looks for it, which
also leaves out what reads like boilerplate: short lists, listings in figures. Where that finds nothing, all visible
text is taken.
"""

from __future__ import annotations

import codecs
import copy
import re
from typing import Any

import lxml.etree
import lxml.html
import trafilatura
from markdownify import MarkdownConverter

from .decoding import decode
from .parsed import Parsed, ReadError, Value, one_line, storable

_INVISIBLE = ("script", "style", "noscript", "template", "head", "svg")
_NO_TEXT = ("nav", "footer", "button", "input", "select", "textarea", "iframe", "object", "canvas", "img", "picture")
_HIDDEN = ".//*[@hidden or @aria-hidden='true']"
# Its marks say nothing to a search.
_EMPHASIS = ("b", "strong", "i", "em")
_LEAST_WORDS = 5
_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*\n")
_META_FIELDS = ("author", "date", "sitename", "description", "language")
_CHARSET = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?([\w.:-]+)", re.IGNORECASE)
_XML_DECLARATION = re.compile(r"\s*<\?xml[^>]*\?>")
_META_SEARCHED_BYTES = 4096
_CONVERTER = MarkdownConverter(
    heading_style="atx",
    bullets="-",
    strip=["a"],
    escape_asterisks=False,
    escape_underscores=False,
    escape_misc=False,
    code_language_callback=lambda code: _language(code),
)


def read_html(content: bytes) -> Parsed:
    """Return the extracted text with the page's title and the fields its markup states.

    Raises:
        ReadError: for a page that is not in the encoding it declares, cannot be parsed, or holds no text.
    """
    source = _XML_DECLARATION.sub("", decode(content, _declared_encoding(content)), count=1)
    tree = _tree(source)
    title = one_line(storable(tree.findtext(".//title") or ""))
    lxml.etree.strip_tags(tree, *_EMPHASIS)
    for link in tree.iter("a"):
        if not any(letter.isalnum() for letter in link.text_content()):
            link.text = None  # the sign by which a heading links to itself
            del link[:]
    text = storable(_markdown(_marked_main(tree)))
    page: Any = trafilatura.extract_metadata(tree) if text else _main_that_looks_so(tree)
    # trafilatura drops short pages and bare fragments as boilerplate; a file on disk was put there to be found.
    text = text or storable(getattr(page, "text", None) or "").strip() or storable(_visible_text(source))
    if not text.strip():
        raise ReadError("no text in this page")
    if page is None:
        return Parsed(text, title)
    return Parsed(text, one_line(storable(page.title or "")) or title, _fields(page))


def _main_that_looks_so(tree: lxml.html.HtmlElement) -> Any:
    return trafilatura.bare_extraction(
        tree, include_comments=False, include_formatting=True, favor_recall=True, with_metadata=True
    )


def _marked_main(tree: lxml.html.HtmlElement) -> lxml.html.HtmlElement | None:
    """The one element that the page calls its main part, or its only article; None where that is not clear."""
    for path in ("//main | //*[@role='main']", "//article"):
        found = tree.xpath(path)
        outer = [element for element in found if not any(other in found for other in element.iterancestors())]
        if len(outer) == 1 and len(outer[0].text_content().split()) >= _LEAST_WORDS:
            return outer[0]
    return None


def _markdown(main: lxml.html.HtmlElement | None) -> str:
    """Empty for None, and for what is nested too deeply."""
    if main is None:
        return ""
    main = copy.deepcopy(main)
    main.tail = None
    lxml.etree.strip_elements(main, *_INVISIBLE, *_NO_TEXT, with_tail=False)
    for element in main.xpath(_HIDDEN):
        element.drop_tree()
    try:
        text = _CONVERTER.convert(lxml.html.tostring(main, encoding="unicode"))
    except RecursionError:
        return ""
    return _BLANK_LINES.sub("\n\n", text).strip()


def _language(code: Any) -> str:
    names = [name for element in (code, code.find("code")) if element for name in element.get("class") or ()]
    return next((name.removeprefix("language-") for name in names if name.startswith("language-")), "")


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
