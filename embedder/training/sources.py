"""Where training texts and pairs come from: gzipped JSON lines under one data folder."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DecantError


class DataError(DecantError):
    """Training data that is missing or malformed."""


@dataclass(frozen=True)
class Pair:
    """A query and a text that answers or means it; `source` is the file it came from."""

    query: str
    positive: str
    source: str


def data_root() -> Path:
    """The data folder: the environment variable DECANT_DATA, else ../shared/data.

    Raises:
        DataError: there is no such folder.
    """
    root = Path(os.environ.get("DECANT_DATA", "../shared/data"))
    if not root.is_dir():
        raise DataError(f"no training data at {root}: set DECANT_DATA to the folder that holds pairs/ and text/")
    return root


def read_jsonl(path: Path) -> Iterator[dict[str, Any]]:
    """Yields the records of a .jsonl or .jsonl.gz file.

    Raises:
        DataError: the file is missing or damaged, or a line is no JSON object.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist: check the source names in the recipe")
    for number, line in enumerate(_lines(path), 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not a JSON line") from error
        if not isinstance(record, dict):
            raise DataError(f"{path}:{number}: a record must be an object")
        yield record


def _lines(path: Path) -> Iterator[str]:
    opener = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rt", encoding="utf-8") as lines:
            yield from lines
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error


def read_pairs(root: Path, name: str) -> Iterator[Pair]:
    """Yields the pairs of `pairs/<name>.jsonl.gz`; of NLI records only the entailments.

    Raises:
        DataError: the file is missing, or a record lacks a side or has an empty one.
    """
    path = root / "pairs" / f"{name}.jsonl.gz"
    for number, record in enumerate(read_jsonl(path), 1):
        if "label" in record and record["label"] != "entailment":
            continue
        query = record.get("query", record.get("premise"))
        positive = record.get("positive", record.get("hypothesis"))
        if not query or not positive:
            raise DataError(f"{path}:{number}: a pair needs a non-empty query and positive")
        yield Pair(query, positive, name)


def read_texts(root: Path, name: str) -> Iterator[tuple[str, str]]:
    """Yields (title, text) of `text/<name>.jsonl.gz`; `docs` stands for all files of text/docs.

    Raises:
        DataError: a file is missing or malformed.
    """
    folder = root / "text"
    paths = sorted((folder / "docs").glob("*.jsonl.gz")) if name == "docs" else [folder / f"{name}.jsonl.gz"]
    for path in paths:
        for record in read_jsonl(path):
            yield record.get("title") or "", record["text"]


def read_beir_texts(root: Path, name: str) -> Iterator[str]:
    """Yields every query and document text of a BEIR folder, for overlap checks."""
    for file in ("queries.jsonl", "corpus.jsonl"):
        for record in read_jsonl(root / "beir" / name / file):
            yield f"{record.get('title', '')} {record['text']}"
