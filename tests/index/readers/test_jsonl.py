"""JSON lines: a record is a document."""

from __future__ import annotations

import json

import pytest

from decant.index.readers.jsonl import BadRecord, Record, read_records
from decant.index.readers.parsed import Parsed


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
