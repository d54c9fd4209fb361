"""The one table of a store, and how documents become its rows.

Every row is a chunk and repeats its document's columns; the row of a document's first chunk also carries the whole
text. One table means one commit per batch, and a commit is the only thing Lance makes atomic: with texts and
chunks in two tables a crash between the two would need repairing, here there is nothing to repair.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from .documents import Chunk, Document
from .errors import BatchError
from .layout import Layout
from .readers.parsed import as_value

SCHEMA_VERSION = 2
TABLE = "chunks"
ID_BYTES = 16
# The largest number of float16.
MOST_WEIGHT = 65_504
DOCUMENT_COLUMNS = ("doc_id", "title", "path", "media", "metadata", "content_hash", "n_chunks")


@dataclass(frozen=True)
class IndexedDocument:
    """A document ready to be stored: all of its chunks, in order, each with its vector.

    Attributes:
        content_hash: decides whether the document has changed; the store only compares it.
        vectors: (len(chunks), D) float32, finite.
        sparse: (len(chunks), V) float32, 0 to `MOST_WEIGHT`, where the store holds sparse vectors; their weights are
            stored to float16's precision.
        router: (len(chunks), R) float32, finite, where the store holds router vectors.
    """

    document: Document
    content_hash: str
    chunks: Sequence[Chunk]
    vectors: NDArray[np.float32]
    sparse: csr_array | None = None
    router: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class DocumentState:
    """What the store knows of a document without reading its text."""

    doc_id: str
    content_hash: str
    path: str
    title: str
    media: str
    n_chunks: int


def table_schema(layout: Layout) -> pa.Schema:
    """The chunks table's columns.

    `key` tells one stored row from another: 64 bits of its chunk id, its vectors and what else a search shows of it,
    the same on every machine. Two of a million rows share one with probability 3e-8; it names rows to caches and
    accelerators, never to a user.
    `words` is what the full-text index reads. A sparse vector is two lists, its terms rising, and their weights.
    """
    fields: list[pa.Field[Any]] = [
        pa.field("chunk_id", pa.string(), nullable=False),
        pa.field("key", pa.int64(), nullable=False),
        pa.field("doc_id", pa.string(), nullable=False),
        pa.field("ordinal", pa.int32(), nullable=False),
        pa.field("start_char", pa.int64(), nullable=False),
        pa.field("end_char", pa.int64(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("words", pa.string(), nullable=False),
        pa.field("title", pa.string(), nullable=False),
        pa.field("path", pa.string(), nullable=False),
        pa.field("media", pa.string(), nullable=False),
        pa.field("metadata", pa.json_(pa.utf8())),
        pa.field("content_hash", pa.string(), nullable=False),
        pa.field("n_chunks", pa.int32(), nullable=False),
        pa.field("document", pa.large_string()),
        pa.field("vector", pa.list_(pa.float32(), layout.dimension), nullable=False),
    ]
    if layout.terms:
        fields.append(pa.field("terms", pa.list_(pa.uint32()), nullable=False))
        fields.append(pa.field("weights", pa.list_(pa.float32()), nullable=False))
    if layout.router:
        fields.append(pa.field("router", pa.list_(pa.float32(), layout.router), nullable=False))
    return pa.schema(fields)


def describes(layout: Layout, schema: pa.Schema) -> bool:
    """Whether a table with these columns holds what a layout says; of sparse vectors only that there are some."""
    wanted = table_schema(layout)
    vectors = [name for name in ("vector", "router") if name in wanted.names]
    return set(wanted.names) == set(schema.names) and all(
        wanted.field(name).type == schema.field(name).type for name in vectors
    )


def chunk_id(chunk: Chunk) -> str:
    """The chunk's stable name: 32 hex digits of its document, place and text."""
    digest = hashlib.blake2b(digest_size=ID_BYTES)
    for part in (chunk.doc_id, str(chunk.ordinal), str(chunk.start_char), str(chunk.end_char), chunk.text):
        data = part.encode("utf-8")
        digest.update(len(data).to_bytes(8, "little"))
        digest.update(data)
    return digest.hexdigest()


def row_key(identity: str, shown: str, vector: NDArray[np.float32], *others: NDArray[Any]) -> int:
    """Name what is stored of one chunk: signed 64 bits.

    Args:
        identity: the chunk's id, which speaks for its place and text.
        shown: what else a search shows of it.
        vector: dense; its little-endian bytes count.
        *others: the parts of other vectors, likewise.
    """
    digest = hashlib.blake2b(identity.encode("ascii"), digest_size=8)
    digest.update(hashlib.blake2b(shown.encode("utf-8"), digest_size=8).digest())
    digest.update(np.ascontiguousarray(vector, dtype="<f4").tobytes())
    for other in others:
        digest.update(other.astype(other.dtype.newbyteorder("<")).tobytes())
    return int.from_bytes(digest.digest(), "little", signed=True)


def rows_of(batch: Sequence[IndexedDocument], layout: Layout) -> pa.Table:
    """Check a batch and turn it into rows, one per chunk.

    Raises:
        BatchError: a document twice, without chunks, with chunks that are not its own text, with vectors of
            another number or width, with NaN or infinity, or with text or metadata that cannot be stored.
    """
    seen: set[str] = set()
    for entry in batch:
        doc_id = entry.document.doc_id
        if doc_id in seen:
            raise BatchError(f"{doc_id!r} occurs twice in one batch: give every document its own doc_id")
        seen.add(doc_id)
        _check_chunks(entry)
        _check_vectors(entry, layout)
    schema = table_schema(layout)
    try:
        columns = _columns(batch, _vector_columns(batch, layout))
        columns["metadata"] = pa.ExtensionArray.from_storage(
            schema.field("metadata").type, pa.array(columns["metadata"], pa.utf8())
        )
        return pa.table(columns, schema=schema)
    except UnicodeEncodeError as error:
        raise BatchError(f"text that is not Unicode cannot be stored ({error.reason}): decode it again") from error


def words_of(title: str, text: str) -> str:
    """What is searched by words: a chunk under its document's title, as the encoder reads it, too."""
    return text if not title or text.startswith(title) else f"{title}\n{text}"


def metadata_json(metadata: Mapping[str, object], doc_id: str) -> str:
    """Metadata as JSON text, keys sorted.

    Raises:
        BatchError: for a value that is not text, a finite number or a truth value, or a whole number beyond 64 bits
            with sign: Lance rounds larger ones.
    """
    for key, value in metadata.items():
        if not isinstance(value, str | int | float) or as_value(value) is not value:
            raise BatchError(
                f"{doc_id!r}: metadata {key!r} is {value!r}; give text, a finite number (a whole one below 2^63), true "
                "or false"
            )
    return json.dumps(dict(metadata), ensure_ascii=False, sort_keys=True, allow_nan=False)


def _vector_columns(batch: Sequence[IndexedDocument], layout: Layout) -> _Vectors:
    dense = np.concatenate(
        [np.asarray(e.vectors, np.float32) for e in batch] or [np.zeros((0, layout.dimension), "f4")]
    )
    sparse, router = None, None
    if layout.terms:
        parts = [e.sparse for e in batch if e.sparse is not None]
        sparse = tidy(vstack(parts, format="csr") if parts else csr_array((0, layout.terms), dtype=np.float32))
        _halve(sparse, [e.document.doc_id for e in batch for _ in e.chunks])
    if layout.router:
        parts = [np.asarray(e.router, np.float32) for e in batch if e.router is not None]
        router = np.concatenate(parts or [np.zeros((0, layout.router), "f4")])
    return _Vectors(dense, sparse, router)


def tidy(rows: Any) -> csr_array:
    """Sparse rows in the one form that is searched: float32, terms rising, no term twice, no zero."""
    clean = csr_array(rows, dtype=np.float32, copy=True)
    clean.sum_duplicates()
    clean.eliminate_zeros()
    return clean


def _halve(rows: csr_array, doc_ids: Sequence[str]) -> None:
    """Round tidy rows, each of the document named beside it, to float16 in place; a weight below 3e-8 is dropped.

    Seismic keeps weights so: the scores it finds are then those of the stored rows, and nobody computes them again.
    """
    if len(rows.data) and (most := rows.data.max()) > MOST_WEIGHT:
        row = int(np.searchsorted(rows.indptr, rows.data.argmax(), "right")) - 1
        raise BatchError(f"{doc_ids[row]!r}: a sparse weight is {most:g}: give weights up to {MOST_WEIGHT:,}")
    rows.data[:] = rows.data.astype(np.float16)
    rows.eliminate_zeros()


@dataclass(frozen=True)
class _Vectors:
    """All representations of a batch's chunks, (n, ...) each."""

    dense: NDArray[np.float32]
    sparse: csr_array | None
    router: NDArray[np.float32] | None

    def key(self, row: int, identity: str, shown: str) -> int:
        others: list[NDArray[Any]] = []
        if self.sparse is not None:
            begin, end = self.sparse.indptr[row], self.sparse.indptr[row + 1]
            others += [self.sparse.indices[begin:end].astype("<u4"), self.sparse.data[begin:end].astype("<f4")]
        if self.router is not None:
            others.append(self.router[row])
        return row_key(identity, shown, self.dense[row], *others)

    def columns(self) -> dict[str, object]:
        found: dict[str, object] = {"vector": _fixed(self.dense)}
        if self.sparse is not None:
            offsets = pa.array(self.sparse.indptr.astype(np.int32))
            found["terms"] = pa.ListArray.from_arrays(offsets, pa.array(self.sparse.indices.astype(np.uint32)))
            found["weights"] = pa.ListArray.from_arrays(offsets, pa.array(self.sparse.data.astype(np.float32)))
        if self.router is not None:
            found["router"] = _fixed(self.router)
        return found


def _fixed(matrix: NDArray[np.float32]) -> pa.FixedSizeListArray:
    return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])


def _columns(batch: Sequence[IndexedDocument], vectors: _Vectors) -> dict[str, object]:
    pairs = [(entry, chunk) for entry in batch for chunk in entry.chunks]
    ids = [chunk_id(chunk) for _, chunk in pairs]
    metadata = {id(e): metadata_json(e.document.metadata, e.document.doc_id) for e in batch}
    shown = {id(e): json.dumps([e.document.title, e.document.path, metadata[id(e)]]) for e in batch}
    return {
        "chunk_id": ids,
        "key": [vectors.key(row, ids[row], shown[id(e)]) for row, (e, _) in enumerate(pairs)],
        "doc_id": [c.doc_id for _, c in pairs],
        "ordinal": [c.ordinal for _, c in pairs],
        "start_char": [c.start_char for _, c in pairs],
        "end_char": [c.end_char for _, c in pairs],
        "text": [c.text for _, c in pairs],
        "words": [words_of(e.document.title, c.text) for e, c in pairs],
        "title": [e.document.title for e, _ in pairs],
        "path": [e.document.path for e, _ in pairs],
        "media": [e.document.media for e, _ in pairs],
        "metadata": [metadata[id(e)] for e, _ in pairs],
        "content_hash": [e.content_hash for e, _ in pairs],
        "n_chunks": [len(e.chunks) for e, _ in pairs],
        "document": [e.document.text if c.ordinal == 0 else None for e, c in pairs],
        **vectors.columns(),
    }


def _check_chunks(entry: IndexedDocument) -> None:
    document = entry.document
    if not document.doc_id:
        raise BatchError(f"a document from {document.path or 'an unnamed source'} has an empty doc_id: give it one")
    if not entry.chunks:
        raise BatchError(f"{document.doc_id!r} has no chunks, so nothing could ever be found in it: leave it out")
    for ordinal, chunk in enumerate(entry.chunks):
        if chunk.doc_id != document.doc_id or chunk.ordinal != ordinal:
            raise BatchError(f"{document.doc_id!r}: its chunks must be its own and numbered from 0 in order")
        if chunk.start_char < 0 or document.text[chunk.start_char : chunk.end_char] != chunk.text:
            raise BatchError(
                f"{document.doc_id!r}: chunk {ordinal} is not the document's text at "
                f"[{chunk.start_char}:{chunk.end_char}]"
            )


def _check_vectors(entry: IndexedDocument, layout: Layout) -> None:
    held: dict[str, tuple[Any, int]] = {"vectors": (entry.vectors, layout.dimension)}
    held |= {"sparse": (entry.sparse, layout.terms), "router": (entry.router, layout.router)}
    for name, (matrix, width) in held.items():
        if width == 0:
            if matrix is not None:
                raise BatchError(f"{entry.document.doc_id!r}: {name} for a store that holds none: leave it out")
            continue
        expected = (len(entry.chunks), width)
        shape = () if matrix is None else matrix.shape
        if shape != expected:
            raise BatchError(
                f"{entry.document.doc_id!r}: {name} of shape {shape}, expected {expected}: one row per chunk, "
                "as wide as the store's model makes them"
            )
        assert matrix is not None, "of the right shape"
        values = np.asarray(matrix.data if name == "sparse" else matrix)
        if not np.isfinite(values).all():
            raise BatchError(
                f"{entry.document.doc_id!r}: {name} hold NaN or infinity, so the model failed on it: nothing was stored"
            )
        if name == "sparse" and len(values) and values.min() < 0:
            raise BatchError(f"{entry.document.doc_id!r}: a sparse weight is negative: give weights from 0")
