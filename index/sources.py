"""Files to documents: what each file holds, hashed before it is parsed, so that what is unchanged is never parsed."""

from __future__ import annotations

import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .documents import Document
from .readers.formats import JSONL
from .readers.isolated import Isolated
from .readers.jsonl import BadRecord, Record, read_records
from .readers.parsed import Parsed, ReadError
from .walk import Failure, FoundFile

# Files are parsed in memory; records of a .jsonl are streamed and may add up to any size.
MAX_FILE_BYTES = 256 << 20


@dataclass(frozen=True)
class Source:
    """One document before it is parsed.

    Attributes:
        content_hash: of the bytes it is made from and the settings given.
        read: parses it; raises ReadError.
    """

    doc_id: str
    content_hash: str
    read: Callable[[], Document]


@dataclass(frozen=True)
class Stretch:
    """Some lines of a `.jsonl`: bytes from `begin` up to `end`, the first line being number `first`."""

    begin: int = 0
    end: int = sys.maxsize
    first: int = 1


WHOLE = Stretch()


def sources_of(
    file: FoundFile, settings: str, isolated: Isolated, stretch: Stretch = WHOLE
) -> Iterator[Source | Failure]:
    """Yield the document of a file, or one for each record of a `.jsonl`, or why there is none.

    Args:
        file: what to open.
        settings: everything else that decides what is stored; part of every hash.
        isolated: parses formats that need a process of their own.
        stretch: which lines of a `.jsonl` to read.
    """
    if file.format == JSONL:
        yield from _record_sources(file, settings, stretch)
        return
    try:
        content = _content(file)
    except (ReadError, OSError) as error:
        yield Failure(str(file.path), _reason(error))
        return

    def read() -> Document:
        parsed = isolated.read(file.format, content) if file.format.isolated else file.format.parser()(content)
        return _document(file.doc_id, parsed, file)

    yield Source(file.doc_id, _digest(content, settings, file.format.media), read)


def _record_sources(file: FoundFile, settings: str, stretch: Stretch) -> Iterator[Source | Failure]:
    try:
        with _open(file.path) as lines:
            for found in read_records(_lines(lines, stretch), first=stretch.first):
                yield _record_source(file, found, settings)
    except OSError as error:
        yield Failure(str(file.path), _reason(error))


def _lines(file: io.BufferedReader, stretch: Stretch) -> Iterator[bytes]:
    if stretch.begin:
        file.seek(stretch.begin)
    place = stretch.begin
    for line in file:
        if place >= stretch.end:
            return
        place += len(line)
        yield line


def _record_source(file: FoundFile, found: Record | BadRecord, settings: str) -> Source | Failure:
    if isinstance(found, BadRecord):
        return Failure(f"{file.path}:{found.line}", found.reason)
    doc_id = f"{file.doc_id}#{found.key}"
    digest = _digest(found.content, settings, file.format.media)
    return Source(doc_id, digest, lambda: _document(doc_id, found.parsed, file))


def _document(doc_id: str, parsed: Parsed, file: FoundFile) -> Document:
    media = "text" if file.format == JSONL else file.format.media
    title = parsed.title or ("" if file.format == JSONL else _title_of(file.path, media))
    return Document(doc_id, parsed.text, title, str(file.path), media, parsed.metadata)


def _title_of(path: Path, media: str) -> str:
    """Return what a file is called where its content does not say; code by its name, prose by its words."""
    if media.startswith("code:"):
        return path.name
    return path.stem.replace("_", " ").replace("-", " ").strip()


def _content(file: FoundFile) -> bytes:
    if file.size > MAX_FILE_BYTES:
        raise ReadError(f"{file.size} bytes, over the limit of {MAX_FILE_BYTES}: split it")
    with _open(file.path) as stream:
        return stream.read()


def _open(path: Path) -> io.BufferedReader:
    # Between the walk and now a pipe may have taken the file's place; opening it must not wait for a writer.
    return os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")


def _digest(content: bytes, settings: str, media: str) -> str:
    digest = hashlib.blake2b(f"{settings}\0{media}\0".encode(), digest_size=16)
    digest.update(content)
    return digest.hexdigest()


def _reason(error: ReadError | OSError) -> str:
    if isinstance(error, OSError):
        return (error.strerror or type(error).__name__).lower()
    return str(error)
