"""Texts to embed, one at a time, from plain lines or `.jsonl`, so that any amount fits."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ...embedder.errors import InputError

STDIN = "-"
_ID_FIELDS = ("id", "_id")


@dataclass(frozen=True)
class Item:
    """One text and what to call its row."""

    name: str
    text: str


def read_items(sources: Sequence[str], field: str, *, jsonl: bool | None) -> Iterator[Item]:
    """Yield the texts of files (`-` for standard input) in order.

    Args:
        sources: paths; `.jsonl` files hold an object per line, all others a text per line.
        field: the object's field that holds the text.
        jsonl: overrules the file's name.

    Raises:
        InputError: naming file and line, for what cannot be read or holds no text.
    """
    for source in sources:
        as_json = source.endswith(".jsonl") if jsonl is None else jsonl
        with _opened(source) as stream:
            for number, line in enumerate(_lines(stream, source), start=1):
                place = f"{_called(source)}, line {number}"
                item = _from_json(line, field, place, number) if as_json else Item(str(number), line)
                if not item.text.strip():
                    raise InputError(f"{place} holds no text: remove it, so that every vector has its text")
                yield item


@contextmanager
def _opened(source: str) -> Generator[BinaryIO]:
    if source == STDIN:
        yield sys.stdin.buffer
        return
    try:
        stream = Path(source).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {_called(source)}: {(error.strerror or str(error)).lower()}") from error
    with stream:
        yield stream


def _lines(stream: Iterable[bytes], source: str) -> Iterator[str]:
    try:
        for number, raw in enumerate(stream, start=1):
            if b"\0" in raw:
                raise InputError(f"{_called(source)}, line {number} is binary: give text, one per line, or .jsonl")
            try:
                yield raw.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{_called(source)}, line {number} is not UTF-8 (byte {error.start} of it): convert the file first"
                ) from error
    except OSError as error:
        raise InputError(f"cannot read {_called(source)}: {(error.strerror or str(error)).lower()}") from error


def _called(source: str) -> str:
    return "standard input" if source == STDIN else source


def _from_json(line: str, field: str, place: str, number: int) -> Item:
    try:
        record: Any = json.loads(line)
    except ValueError as error:
        raise InputError(f"{place} is not JSON: {error}") from None
    text = record.get(field) if isinstance(record, dict) else None
    if not isinstance(text, str):
        raise InputError(f"{place} has no text in {field!r}: name the right field with --field")
    name = next((record[key] for key in _ID_FIELDS if isinstance(record.get(key), str | int)), number)
    return Item(str(name), text)
