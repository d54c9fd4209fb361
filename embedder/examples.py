"""Worked examples for the query at hand, found among a model's own (RARe, arXiv 2410.20088).

The paper's rule: BM25 over the examples' queries, the query itself left out, the nearest written last. Documents get
no examples.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import bm25s
import numpy as np
from numpy.typing import NDArray

from .errors import InputError, ModelError
from .spec import EncoderSpec, ExampleSearch, ExampleSpec
from .tokenization import TextTokenizer, TokenizedTexts, Truncate

Pairs = Sequence[tuple[str, str]]

# Lucene's defaults as Pyserini sets them, which the paper retrieved with.
_K1, _B = 0.9, 0.4


class Search(Protocol):
    """Finds the stored queries that are nearest to a text."""

    def nearest(self, text: str, count: int) -> list[int]:
        """Return the numbers of at most `count` stored queries, nearest first."""
        ...


class LexicalSearch:
    """BM25 over the stored queries; one that shares no word with the text is never found."""

    def __init__(self, queries: Sequence[str]) -> None:
        """Index the queries."""
        self._index: Any = bm25s.BM25(k1=_K1, b=_B, method="lucene")
        self._size = len(queries)
        self._index.index(self._words(queries), show_progress=False)

    def nearest(self, text: str, count: int) -> list[int]:
        """Return the best matches, ties in stored order."""
        words = self._words([text])
        if not words[0]:
            return []
        scores = np.asarray(self._index.get_scores(words[0]), np.float64)
        order = np.argsort(-scores, kind="stable")[:count]
        return [int(i) for i in order if scores[i] > 0]

    @staticmethod
    def _words(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(list(texts), stopwords="en", return_ids=False, show_progress=False)  # pyright: ignore


class DenseSearch:
    """Inner products of the model's own vectors; the stored queries are encoded when the first text comes."""

    def __init__(self, queries: Sequence[str], encode: Callable[[list[str]], NDArray[np.float32]]) -> None:
        """Keep the queries; `encode` turns N texts into (N, D) rows, without examples."""
        self._queries, self._encode = list(queries), encode
        self._vectors: NDArray[np.float32] | None = None
        self._lock = Lock()

    def nearest(self, text: str, count: int) -> list[int]:
        """Return the best matches, ties in stored order."""
        with self._lock:
            if self._vectors is None:
                self._vectors = self._encode(self._queries)
        scores = self._vectors @ self._encode([text])[0]
        return [int(i) for i in np.argsort(-scores, kind="stable")[:count]]


class ExampleIndex:
    """A model's examples, and the search among them.

    Attributes:
        pairs: (query, passage) pairs as given.
    """

    def __init__(self, pairs: Pairs, spec: ExampleSpec, encode: Callable[[list[str]], NDArray[np.float32]]) -> None:
        """Index the pairs' queries as the spec says."""
        self.pairs = list(pairs)
        queries = [query for query, _ in self.pairs]
        lexical = spec.search is ExampleSearch.BM25
        self._search: Search = LexicalSearch(queries) if lexical else DenseSearch(queries, encode)
        self._count = spec.count

    def for_query(self, text: str) -> list[tuple[str, str]]:
        """Return the examples written before this query, the nearest last; never the query's own."""
        found = [self.pairs[i] for i in self._search.nearest(text, self._count + 1)]
        return [pair for pair in found if pair[0] != text][: self._count][::-1]

    def digest(self) -> bytes:
        """Hash the pairs, for the fingerprint."""
        return hashlib.blake2b(json.dumps(self.pairs).encode(), digest_size=16).digest()


def tokenize_each(
    tokenizer: TextTokenizer,
    spec: EncoderSpec,
    texts: Sequence[str],
    examples: Iterable[Pairs],
    around: tuple[str, str | None, Truncate],
    first: int,
) -> TokenizedTexts:
    """Tokenise each text behind as many of its own examples, the nearest first to stay, as leave it whole.

    Args:
        tokenizer: under the spec's rules.
        spec: whose prompt takes the examples.
        texts: N texts.
        examples: N lists of pairs, the nearest last.
        around: kind, instruction, and what happens to a text that is too long without examples.
        first: number of the first text, for error messages.

    Raises:
        InputError: as of `TextTokenizer`.
    """
    parts = [
        _whole(tokenizer, spec, text, found, around, first + i)
        for i, (text, found) in enumerate(zip(texts, examples, strict=True))
    ]
    return TokenizedTexts(
        [ids for part in parts for ids in part.ids],
        np.array([part.pool_from[0] for part in parts], np.int32),
        np.array([part.truncated[0] for part in parts], np.bool_),
    )


def _whole(
    tokenizer: TextTokenizer,
    spec: EncoderSpec,
    text: str,
    found: Pairs,
    around: tuple[str, str | None, Truncate],
    number: int,
) -> TokenizedTexts:
    kind, instruction, truncate = around
    for left_out in range(len(found)):
        try:
            tokenized = tokenizer([text], spec.template(kind, instruction, found[left_out:]), first=number)
        except InputError:  # the examples leave no room at all
            continue
        if not tokenized.truncated[0]:
            return tokenized
    return tokenizer([text], spec.template(kind, instruction), truncate, first=number)


def read_examples(file: Path) -> list[tuple[str, str]]:
    """Read a .jsonl of objects with `query` and `positive`.

    Raises:
        InputError: naming the line and the field that is missing or empty.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the examples in {file}: {str(error).splitlines()[0]}") from None
    pairs: list[tuple[str, str]] = []
    for number, line in enumerate(lines, start=1):
        try:
            record: Any = json.loads(line)
        except ValueError:
            raise InputError(f"{file}, line {number} is not JSON: give objects with query and positive") from None
        for field in ("query", "positive"):
            value = record.get(field) if isinstance(record, dict) else None
            if not isinstance(value, str) or not value.strip():
                raise InputError(f"{file}, line {number} has no text in {field!r}: an example needs query and positive")
        pairs.append((record["query"], record["positive"]))
    if not pairs:
        raise InputError(f"{file} holds no examples: give a line with query and positive for each")
    return pairs


def write_examples(pairs: Pairs, file: Path) -> None:
    """Write what `read_examples` reads."""
    lines = [json.dumps({"query": query, "positive": passage}, ensure_ascii=False) for query, passage in pairs]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def check_examples(pairs: Pairs | None) -> Pairs:
    """Refuse a model whose spec asks for examples it does not have.

    Raises:
        ModelError: if there are none.
    """
    if not pairs:
        raise ModelError("the spec retrieves examples, the folder has no examples.jsonl: give them with examples=")
    return pairs
