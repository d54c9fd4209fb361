"""Bytes to text without guessing: what a byte order mark or the format itself declares, else UTF-8."""

from __future__ import annotations

import codecs

from .parsed import ReadError

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, ""),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, ""),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def decode(content: bytes, declared: str = "utf-8") -> str:
    """Return the text of `content`, its byte order mark left out and its line ends kept.

    Args:
        content: a whole file.
        declared: the encoding where no byte order mark names one; must be known to Python.

    Raises:
        ReadError: for an empty file, binary content, or bytes that are not in the encoding; the last two name the
            first offending byte.
    """
    mark, encoding = next((m for m in _MARKS if content.startswith(m[0])), (b"", declared))
    if not encoding:
        raise ReadError("UTF-32: convert it to UTF-8")
    if not encoding.startswith("utf-16") and b"\0" in content:
        raise ReadError(f"binary content (a zero byte at byte {content.index(0)})")
    try:
        text = content[len(mark) :].decode(encoding)
    except UnicodeDecodeError as error:
        at = len(mark) + error.start
        raise ReadError(f"not {encoding.upper()} at byte {at}: convert it, e.g. with iconv -t UTF-8") from None
    if "\0" in text:
        raise ReadError(f"binary content (a zero character at character {text.index(chr(0))})")
    if not text.strip():
        raise ReadError("empty")
    return text
