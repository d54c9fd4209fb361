"""Folders into a store: read, cut, encode and keep what has changed, and only that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..embedder.errors import InputError
from . import chunking
from .chunking import DEFAULT_CHUNK_TOKENS, Chunker, ChunkSettings
from .documents import Chunk, Document
from .encoder import Encoder
from .readers import formats
from .readers.isolated import PARSE_SECONDS, Isolated
from .readers.parsed import ReadError
from .roots import Part, assign, load_roots, save_roots
from .schema import IndexedDocument
from .sources import Source, sources_of
from .store import Store
from .walk import Failure, Findings, FoundFile, walk

# A batch is what a kill can lose and what a commit costs; both are small beside encoding it.
BATCH_CHUNKS = 512
BATCH_CHARS = 4 << 20
# Encoded at a stretch: enough for a packer to sort by length, few enough for a progress bar to move.
ENCODE_CHUNKS = 128


@dataclass(frozen=True)
class IndexProgress:
    """Where a run stands; `bytes_done` of `bytes_total` is the fraction to show."""

    files_done: int
    files_total: int
    bytes_done: int
    bytes_total: int
    chunks: int
    tokens: int
    path: str


@dataclass(frozen=True)
class IndexReport:
    """What a run did, in documents (a file, or a record of a `.jsonl`).

    Attributes:
        removed: documents whose file or record has vanished from a path that was given.
        failed: what could not be read; where an earlier version was indexed, it stays and can still be found.
        ignored: what was left out on purpose: formats that are not read, links to folders.
        chunks: chunks encoded in this run; tokens: their tokens, prompt and special tokens included.
        truncated: chunks the encoder had to cut.
    """

    added: int = 0
    changed: int = 0
    unchanged: int = 0
    removed: int = 0
    failed: tuple[Failure, ...] = ()
    ignored: tuple[Failure, ...] = ()
    chunks: int = 0
    tokens: int = 0
    truncated: int = 0


def index_paths(
    store: Store,
    encoder: Encoder,
    paths: Sequence[Path],
    *,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
    overlap: int = 0,
    parse_seconds: float = PARSE_SECONDS,
    batch_chunks: int = BATCH_CHUNKS,
    progress: Callable[[IndexProgress], None] | None = None,
) -> IndexReport:
    """Make the store hold what the files at `paths` hold now.

    A document is encoded if its bytes, its reader or the chunk settings have changed; documents that have vanished
    from `paths` are removed, others in the store are left alone. Killed at any moment, the store holds whole
    documents, and the same call completes it. Holds the writer's lock throughout.

    Args:
        store: open for writing, with this encoder.
        encoder: makes the vectors.
        paths: folders and files.
        chunk_tokens: a chunk's most tokens.
        overlap: tokens a chunk may repeat from the one before.
        parse_seconds: what parsing one PDF, HTML or Word file may take.
        batch_chunks: chunks encoded and committed together.
        progress: called after each file and each stretch of encoding.

    Raises:
        InputError: a path that is not there, or settings that make no sense; nothing is changed.
        StoreLocked: another process is writing.
    """
    if not paths:
        raise InputError("nothing to index: name a folder or a file")
    chunker = Chunker(encoder, ChunkSettings(chunk_tokens, overlap))
    with store.writer(), Isolated(parse_seconds) as isolated:
        parts, roots = assign(paths, load_roots(store.root))
        findings = _walk(parts, store.root)
        save_roots(store.root, roots)
        run = _Run(store, encoder, chunker, batch_chunks, findings, progress)
        settings = f"{formats.VERSION} {chunking.VERSION} {chunk_tokens} {overlap}"
        for file in findings.files:
            run.add(file, sources_of(file, settings, isolated))
        run.flush()
        run.remove_vanished(parts)
        return run.report()


def _walk(parts: Sequence[Part], store_folder: Path) -> Findings:
    findings = Findings()
    for part in parts:
        if part.path.exists():
            walk(part.path, part.doc_id, findings, leave_out={*part.leave_out, store_folder.resolve()})
    return findings


@dataclass
class _Pending:
    """The batch that is being filled."""

    entries: list[tuple[Document, str, list[Chunk]]] = field(default_factory=list[tuple[Document, str, list[Chunk]]])
    chunks: int = 0
    chars: int = 0


class _Run:
    """The state of one call of `index_paths`."""

    def __init__(
        self,
        store: Store,
        encoder: Encoder,
        chunker: Chunker,
        batch_chunks: int,
        findings: Findings,
        progress: Callable[[IndexProgress], None] | None,
    ) -> None:
        self._store, self._encoder, self._chunker, self._batch_chunks = store, encoder, chunker, batch_chunks
        self._known = dict(store.documents())
        self._findings, self._progress = findings, progress
        self._seen: set[str] = set()
        self._failed = list(findings.failed.values())
        self._failed_ids = set(findings.failed)
        self._pending = _Pending()
        self._bytes_total = sum(file.size for file in findings.files)
        self._files_done = self._bytes_done = 0
        self._path = ""
        self._added = self._changed = self._unchanged = self._removed = 0
        self._chunks = self._tokens = self._truncated = 0

    def add(self, file: FoundFile, sources: Iterator[Source | Failure]) -> None:
        """Take up what a file holds."""
        self._path = str(file.path)
        for source in sources:
            if isinstance(source, Failure):
                self._fail(file, source)
            elif source.doc_id in self._seen:
                self._fail(file, Failure(self._path, f"its id {source.doc_id!r} is taken by another document"))
            else:
                self._seen.add(source.doc_id)
                self._take(file, source)
        self._files_done += 1
        self._bytes_done += file.size
        self._tell()

    def flush(self) -> None:
        """Encode and commit the batch."""
        batch, self._pending = self._pending, _Pending()
        if not batch.entries:
            return
        texts = [self._chunker.encoder_text(d.title, c) for d, _, chunks in batch.entries for c in chunks]
        vectors = np.concatenate(
            [self._encode(texts[i : i + ENCODE_CHUNKS]) for i in range(0, len(texts), ENCODE_CHUNKS)]
        )
        ends = np.cumsum([len(chunks) for _, _, chunks in batch.entries])
        self._store.replace(
            [
                IndexedDocument(document, content_hash, chunks, own)
                for (document, content_hash, chunks), own in zip(
                    batch.entries, np.split(vectors, ends[:-1]), strict=True
                )
            ]
        )
        for document, _, _ in batch.entries:
            if document.doc_id in self._known:
                self._changed += 1
            else:
                self._added += 1

    def remove_vanished(self, parts: Sequence[Part]) -> None:
        """Delete what the store has of `parts` and the walk has not met, failures excepted."""
        covered = tuple(part.doc_id for part in parts)
        vanished = [
            doc_id
            for doc_id in self._known
            if doc_id not in self._seen
            and any(prefix in covered for prefix in _prefixes(doc_id))
            and not any(prefix in self._failed_ids for prefix in _prefixes(doc_id))
        ]
        if vanished:
            self._store.delete(vanished)
        self._removed = len(vanished)

    def report(self) -> IndexReport:
        """Tidy the store where it was changed, and sum up."""
        if self._added or self._changed or self._removed:
            self._store.optimize()
        return IndexReport(
            self._added,
            self._changed,
            self._unchanged,
            self._removed,
            tuple(self._failed),
            tuple(self._findings.ignored),
            self._chunks,
            self._tokens,
            self._truncated,
        )

    def _take(self, file: FoundFile, source: Source) -> None:
        known = self._known.get(source.doc_id)
        if known is not None and known.content_hash == source.content_hash:
            self._unchanged += 1
            return
        try:
            document = source.read()
        except ReadError as error:
            self._fail(file, Failure(self._path, str(error)))
            return
        chunks = self._chunker.chunk(document)
        self._pending.entries.append((document, source.content_hash, chunks))
        self._pending.chunks += len(chunks)
        self._pending.chars += len(document.text)
        if self._pending.chunks >= self._batch_chunks or self._pending.chars >= BATCH_CHARS:
            self.flush()

    def _fail(self, file: FoundFile, failure: Failure) -> None:
        self._failed.append(failure)
        self._failed_ids.add(file.doc_id)

    def _encode(self, texts: list[str]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
        embeddings = self._encoder.encode(texts, kind="document")
        assert embeddings.dense is not None
        self._chunks += len(texts)
        self._tokens += int(embeddings.tokens.sum())
        self._truncated += int(embeddings.truncated.sum())
        self._tell()
        return embeddings.dense

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(
                IndexProgress(
                    self._files_done,
                    len(self._findings.files),
                    self._bytes_done,
                    self._bytes_total,
                    self._chunks,
                    self._tokens,
                    self._path,
                )
            )


def _prefixes(doc_id: str) -> Iterator[str]:
    """Yield the id itself and what it begins with: its folders, and its file if it is a record's."""
    yield doc_id
    for position, character in enumerate(doc_id):
        if character in "/#":
            yield doc_id[:position]
