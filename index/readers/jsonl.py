"""JSON lines: one document per record, as BEIR has it (`_id`, `title`, `text`) or with `id`."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from .parsed import Parsed, ReadError, Value, as_value, one_line

_KEYS = ("_id", "id")


@dataclass(frozen=True)
class Record:
    """One line that holds a document.

    Attributes:
        line: its number, from 1.
        key: its id, or the line number where it names none.
        content: the line's bytes.
    """

    line: int
    key: str
    content: bytes
    parsed: Parsed


@dataclass(frozen=True)
class BadRecord:
    """One line that does not, and why."""

    line: int
    reason: str


def read_records(lines: Iterable[bytes], *, first: int = 1) -> Iterator[Record | BadRecord]:
    """Yield what each line of a file holds, blank lines left out; a repeated key is bad, its first use stays.

    `first` is the number of the first line given.
    """
    first_use: dict[str, int] = {}
    for number, line in enumerate(lines, start=first):
        content = (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).strip()
        if not content:
            continue
        try:
            key, parsed = _parse(content)
        except ReadError as error:
            yield BadRecord(number, str(error))
            continue
        key = key or str(number)
        if key in first_use:
            yield BadRecord(number, f"id {key!r} is taken by line {first_use[key]}")
            continue
        first_use[key] = number
        yield Record(number, key, content, parsed)


def _parse(content: bytes) -> tuple[str, Parsed]:
    try:
        record: Any = json.loads(content.decode())
    except UnicodeDecodeError as error:
        raise ReadError(f"not UTF-8 at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        raise ReadError(f"not JSON: {one_line(str(error))}") from None
    if not isinstance(record, dict):
        raise ReadError("not a JSON object")
    fields = cast(dict[str, Any], record)
    text = fields.pop("text", None)
    if not isinstance(text, str):
        raise ReadError("no field 'text' with a string")
    if not text.strip():
        raise ReadError("empty")
    key = next((fields.pop(name) for name in _KEYS if fields.get(name) is not None), "")
    title = fields.pop("title", None) or ""
    nested = fields.pop("metadata", None) or {}
    flat = {**fields, **nested} if isinstance(nested, dict) else {**fields, "metadata": nested}
    parsed = Parsed(text, str(title), {name: value for name, v in flat.items() if (value := _plain(v)) is not None})
    _refuse_lone_surrogates(f"{key}{text}{parsed.title}{parsed.metadata}")
    return str(key), parsed


def _plain(value: Any) -> Value | None:
    if value is None:
        return None
    if isinstance(value, (str, int, float)):
        return as_value(value)
    return json.dumps(value, ensure_ascii=False)


def _refuse_lone_surrogates(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ReadError("half of a surrogate pair (\\ud800-\\udfff): not Unicode text") from None
