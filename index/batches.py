"""Documents into the store in batches: cut, encoded together, committed together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

from ..embedder.embeddings import Embeddings
from . import chunking
from .chunking import Chunker, ChunkSettings
from .documents import Chunk, Document
from .encoder import Encoder
from .late import LateEncoder, encode_late, late_encoder
from .meta import StoreMeta
from .schema import IndexedDocument
from .store import Store

# A batch is what a kill can lose and what a commit costs; both are small beside encoding it.
BATCH_CHUNKS = 256
BATCH_CHARS = 4 << 20
# Encoded at a stretch: enough for a packer to sort by length, few enough for a progress bar to move.
ENCODE_CHUNKS = 128


class Sink(Protocol):
    """What takes whole batches: a `Store`, or a worker's rows that are committed later."""

    @property
    def meta(self) -> StoreMeta:
        """The store's description."""
        ...

    def replace(self, batch: Sequence[IndexedDocument]) -> None:
        """Take whole documents."""
        ...


@dataclass(frozen=True)
class _Cut:
    document: Document
    content_hash: str
    chunks: list[Chunk]


class Batches:
    """Collects documents until a batch is full, then encodes and commits it; call `flush` at the end.

    Args:
        store: open for writing, or what else keeps the batches.
        encoder: the store's.
        chunker: made for this encoder.
        batch_chunks: chunks to a batch; a longer document is a batch of its own, never cut in two.

    Attributes:
        on_encoded: called after each stretch of encoding with the share of the batch that is done.
        on_stored: called with the ids of each batch once it is durable.
        chunks: encoded so far; tokens: theirs, prompt and special tokens included; truncated: chunks that were cut.
    """

    def __init__(
        self,
        store: Sink,
        encoder: Encoder,
        chunker: Chunker,
        *,
        batch_chunks: int = BATCH_CHUNKS,
    ) -> None:
        self._store, self._encoder, self._chunker, self._batch_chunks = store, encoder, chunker, batch_chunks
        self._late = late_encoder(encoder, store.meta.layout.outputs) if chunker.settings.late else None
        self.on_encoded: Callable[[float], None] = lambda share: None
        self.on_stored: Callable[[list[str]], None] = lambda ids: None
        self._cuts: list[_Cut] = []
        self._waiting_chunks = self._waiting_chars = 0
        self.chunks = self.tokens = self.truncated = 0

    @property
    def waiting(self) -> bool:
        """Whether documents have been taken up and not stored yet."""
        return bool(self._cuts)

    def add(self, document: Document, content_hash: str) -> None:
        """Take up a document with text other than white space; a full batch is stored before this returns."""
        cut = _Cut(document, content_hash, self._chunker.chunk(document))
        self._cuts.append(cut)
        self._waiting_chunks += len(cut.chunks)
        self._waiting_chars += len(document.text)
        if self._waiting_chunks >= self._batch_chunks or self._waiting_chars >= BATCH_CHARS:
            self.flush()

    def flush(self) -> None:
        """Encode and store what is waiting, in one commit."""
        cuts, self._cuts = self._cuts, []
        self._waiting_chunks = self._waiting_chars = 0
        if not cuts:
            return
        if self._late is not None:
            made = self._encode_late(cuts, self._late)
        else:
            texts = [self._chunker.encoder_text(cut.document.title, chunk) for cut in cuts for chunk in cut.chunks]
            made = self._encode(texts)
        ends = np.cumsum([len(cut.chunks) for cut in cuts]).tolist()
        self._store.replace(
            [_indexed(cut, made, end - len(cut.chunks), end) for cut, end in zip(cuts, ends, strict=True)]
        )
        self.on_stored([cut.document.doc_id for cut in cuts])

    def _encode_late(self, cuts: list[_Cut], late: LateEncoder) -> Embeddings:
        parts: list[Embeddings] = []
        for number, cut in enumerate(cuts, start=1):
            parts.append(encode_late(self._encoder, late, cut.document, cut.chunks))
            self.chunks += len(cut.chunks)
            self.tokens += int(parts[-1].tokens.sum())
            self.on_encoded(number / len(cuts))
        return Embeddings.concatenate(parts)

    def _encode(self, texts: list[str]) -> Embeddings:
        parts: list[Embeddings] = []
        outputs = self._store.meta.layout.outputs
        for start in range(0, len(texts), ENCODE_CHUNKS):
            embeddings = self._encoder.encode(
                part := texts[start : start + ENCODE_CHUNKS], kind="document", outputs=outputs
            )
            parts.append(embeddings)
            self.chunks += len(part)
            self.tokens += int(embeddings.tokens.sum())
            self.truncated += int(embeddings.truncated.sum())
            self.on_encoded((start + len(part)) / len(texts))
        return Embeddings.concatenate(parts)


def _indexed(cut: _Cut, made: Embeddings, begin: int, end: int) -> IndexedDocument:
    """A document with its rows of what was made of the batch."""
    assert made.dense is not None, "every store holds dense vectors"
    sparse = None if made.sparse is None else csr_array(made.sparse[begin:end])
    router = None if made.router is None else made.router[begin:end]
    return IndexedDocument(cut.document, cut.content_hash, cut.chunks, made.dense[begin:end], sparse, router)


def index_documents(
    store: Store,
    encoder: Encoder,
    documents: Iterable[Document],
    *,
    settings: ChunkSettings | None = None,
    progress: Callable[[int], None] | None = None,
) -> int:
    """Store documents that are at hand as text; those the store has unchanged are passed over.

    Args:
        store: open for writing, with this encoder.
        encoder: makes the vectors.
        documents: with ids that are unique among them; may be a generator.
        settings: how they are cut.
        progress: called with the number of chunks encoded so far.

    Returns:
        How many documents were stored.

    Raises:
        BatchError: a document without text, or an id twice in one batch.
    """
    chunker = Chunker(encoder, settings)
    stored: list[str] = []
    with store.writer():
        known = store.documents()
        batches = Batches(store, encoder, chunker)
        batches.on_stored = stored.extend
        if progress is not None:
            batches.on_encoded = lambda share: progress(batches.chunks)
        for document in documents:
            content_hash = _document_hash(document, chunker.settings)
            if document.doc_id not in known or known[document.doc_id].content_hash != content_hash:
                batches.add(document, content_hash)
        batches.flush()
    return len(stored)


def settings_mark(settings: ChunkSettings) -> str:
    """Return what a content hash must hold of the chunking, so that other settings make other chunks."""
    return f"{chunking.VERSION} {settings.tokens} {settings.overlap}{' late' if settings.late else ''}"


def _document_hash(document: Document, settings: ChunkSettings) -> str:
    parts = [document.text, document.title, document.path, document.media, dict(document.metadata)]
    content = json.dumps([settings_mark(settings), parts], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
