"""The index's nouns: what is read (`Document`), stored and found (`Chunk`), and given by a search (`Hit`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Metadata = Mapping[str, str | int | float | bool]
# Media whose text is Markdown: what is read of a page or of a Word document is written so.
MARKDOWN_MEDIA = frozenset(("markdown", "html", "docx"))


@dataclass(frozen=True)
class Document:
    """One text to be searched, as its reader understood it.

    Attributes:
        doc_id: stable identity across runs: the name of the indexed root, the path below it, and `#key` for one record
            of a `.jsonl` file.
        text: the whole text, Unicode; every offset counts its code points.
        title: what a person would call it; may be empty.
        path: the file it came from, as given on the command line joined with the relative path.
        media: what the text is: `text`, `markdown`, `html`, `pdf`, `docx`, `rst`, `code:python`, ...
        metadata: fields to filter by.
    """

    doc_id: str
    text: str
    title: str = ""
    path: str = ""
    media: str = "text"
    metadata: Metadata = field(default_factory=dict[str, str | int | float | bool])


@dataclass(frozen=True)
class Chunk:
    """A passage of a document; `document.text[start_char:end_char] == text`, always."""

    doc_id: str
    ordinal: int
    start_char: int
    end_char: int
    text: str


@dataclass(frozen=True)
class Hit:
    """One found chunk, with what a person needs to judge it and a machine to fetch it.

    Attributes:
        score: what the mode ranks by, higher is better: cosine (dense, router), their weighted sum (moee), inner
            product (sparse), BM25 (lexical), what `fusion` gives (several modes), or what a reranker gave.
        ranks: the chunk's rank, from 1, in each list that was fused; one entry outside hybrid.
    """

    chunk: Chunk
    score: float
    title: str
    path: str
    metadata: Metadata
    ranks: Mapping[str, int]
