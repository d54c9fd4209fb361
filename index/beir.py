"""Test collections as BEIR keeps them: `corpus.jsonl`, `queries.jsonl`, `qrels/<split>.tsv`."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..embedder.errors import InputError
from .documents import Document


@dataclass(frozen=True)
class Collection:
    """A folder's queries and judgements; the corpus is streamed.

    Attributes:
        queries: text by id, the judged ones only, in the file's order.
        qrels: relevance by document id, by query id; every query has at least one relevant document.
    """

    folder: Path
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]

    def documents(self) -> Iterator[Document]:
        """Yield the corpus, title and text as one text; documents without either are left out.

        Raises:
            InputError: a line that is not such a record.
        """
        for number, record in _records(self.folder / "corpus.jsonl"):
            title, body = str(record.get("title") or "").strip(), str(record.get("text") or "").strip()
            text = "\n\n".join(part for part in (title, body) if part)
            if text:
                yield Document(_id(record, self.folder / "corpus.jsonl", number), text, title)


def load_collection(folder: Path, split: str = "test") -> Collection:
    """Read queries and judgements of one split.

    Raises:
        InputError: a file is missing or malformed, or no query has a relevant document.
    """
    for name in ("corpus.jsonl", "queries.jsonl", f"qrels/{split}.tsv"):
        if not (folder / name).is_file():
            raise InputError(f"{folder} is not a BEIR folder with split {split!r}: {name} is missing")
    judged = _qrels(folder / "qrels" / f"{split}.tsv")
    file = folder / "queries.jsonl"
    texts = {_id(record, file, number): str(record.get("text") or "") for number, record in _records(file)}
    queries = {query_id: text for query_id, text in texts.items() if max(judged.get(query_id, {"": 0}).values()) > 0}
    if not queries:
        raise InputError(f"{folder}: no query of {file.name} has a relevant document in the split {split!r}")
    empty = next((query_id for query_id, text in queries.items() if not text.strip()), None)
    if empty is not None:
        raise InputError(f"{file}: query {empty!r} is empty")
    return Collection(folder, queries, {query_id: judged[query_id] for query_id in queries})


def _qrels(file: Path) -> dict[str, dict[str, int]]:
    judged: dict[str, dict[str, int]] = {}
    with file.open(encoding="utf-8", newline="") as lines:
        for number, row in enumerate(csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), start=1):
            if number == 1 and row[2:] and not row[2].lstrip("-").isdigit():
                continue  # the header
            try:
                query_id, doc_id, relevance = row
                judged.setdefault(query_id, {})[doc_id] = int(relevance)
            except ValueError:
                raise InputError(f"{file}:{number}: not 'query-id <tab> corpus-id <tab> score'") from None
    return judged


def _records(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, dict[str, Any](json.loads(line))
            except (ValueError, TypeError):
                raise InputError(f"{file}:{number}: not a JSON object") from None


def _id(record: Mapping[str, Any], file: Path, number: int) -> str:
    name = record.get("_id")
    if name is None or name == "":
        raise InputError(f"{file}:{number}: no field '_id'")
    return str(name)
