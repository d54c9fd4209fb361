"""Which files are read, as what, and where."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePath
from typing import cast

from .parsed import Parsed

Parser = Callable[[bytes], Parsed]
VERSION = 1
"""Raise it when a reader gives another text for the same bytes: indexed files are then read again."""


@dataclass(frozen=True)
class Format:
    """A family of files.

    Attributes:
        media: what `Document.media` says.
        reader: module (from this package) and function that parse it; empty for `.jsonl`, whose records are documents.
        isolated: whether it is parsed in a process of its own, under a deadline: native or deep parsers of files
            that may come from anywhere can hang, crash or eat memory.
    """

    media: str
    reader: str
    isolated: bool = False

    def parser(self) -> Parser:
        """Import the parser; heavy libraries load only when a file needs them."""
        module, function = self.reader.split(":")
        return cast(Parser, getattr(import_module(module, __package__), function))


_PLAIN = ".plain:read_plain"
TEXT = Format("text", _PLAIN)
JSONL = Format("jsonl", "")
_DOCUMENTS = {
    "txt text log tex": TEXT,
    "md markdown mdx": Format("markdown", ".markdown:read_markdown"),
    "rst": Format("rst", ".rst:read_rst"),
    "html htm xhtml": Format("html", ".html:read_html", isolated=True),
    "pdf": Format("pdf", ".pdf:read_pdf", isolated=True),
    "docx": Format("docx", ".docx:read_docx", isolated=True),
    "jsonl ndjson": JSONL,
}
_LANGUAGES = {
    "bash": "sh bash",
    "c": "c h",
    "cpp": "cpp cc cxx hpp hh hxx cu cuh",
    "csharp": "cs",
    "css": "css scss",
    "go": "go",
    "haskell": "hs",
    "java": "java",
    "javascript": "js mjs cjs jsx",
    "julia": "jl",
    "kotlin": "kt kts",
    "lua": "lua",
    "perl": "pl pm",
    "php": "php",
    "proto": "proto",
    "python": "py pyi",
    "r": "r",
    "ruby": "rb",
    "rust": "rs",
    "scala": "scala",
    "sql": "sql",
    "swift": "swift",
    "toml": "toml",
    "tsx": "tsx",
    "typescript": "ts mts cts",
    "yaml": "yaml yml",
    "zig": "zig",
}
_BY_SUFFIX = {f".{s}": format_ for suffixes, format_ in _DOCUMENTS.items() for s in suffixes.split()} | {
    f".{s}": Format(f"code:{name}", _PLAIN) for name, suffixes in _LANGUAGES.items() for s in suffixes.split()
}
_BY_NAME = {
    **dict.fromkeys(("readme", "license", "licence", "copying", "notice", "authors", "changelog", "changes"), TEXT),
    "makefile": Format("code:make", _PLAIN),
    "dockerfile": Format("code:dockerfile", _PLAIN),
}


def format_of(path: PurePath) -> Format | None:
    """Return the format a file's name stands for; None for one that is not read."""
    return _BY_SUFFIX.get(path.suffix.lower()) or _BY_NAME.get(path.name.lower())
