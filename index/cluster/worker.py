"""One worker of a cluster: shards in, Lance fragments out, which nobody sees until they are committed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..batches import Batches
from ..chunking import Chunker, ChunkSettings
from ..encoder import Encoder
from ..ingest import source_settings
from ..meta import StoreMeta
from ..readers.isolated import Isolated
from ..readers.parsed import ReadError
from ..schema import IndexedDocument, rows_of, table_schema
from ..sources import Source, sources_of
from ..walk import Failure, FoundFile
from .shards import Shard


@dataclass(frozen=True)
class Job:
    """What every worker of a run is told.

    Attributes:
        meta: the store's description.
        settings: how documents are cut.
        parse_seconds: what parsing one file may take.
        batch_chunks: chunks encoded together.
        table: the address of the store's table.
        known: the content hash of every document in the store.
    """

    meta: StoreMeta
    settings: ChunkSettings
    parse_seconds: float
    batch_chunks: int
    table: str
    known: Mapping[str, str]


@dataclass(frozen=True)
class Finished:
    """What became of a shard, ready for JSON.

    Attributes:
        fragments: Lance's description of each fragment written, as JSON.
        encoded: ids of the documents in them, in order.
        unchanged: ids of those that the store has already.
        failed: (what ids begin with, path, reason) of what could not be read.
        chunks, tokens, truncated: as in `IndexReport`.
    """

    fragments: tuple[str, ...]
    encoded: tuple[str, ...]
    unchanged: tuple[str, ...]
    failed: tuple[tuple[str, str, str], ...]
    chunks: int
    tokens: int
    truncated: int


class _Rows:
    """Keeps batches as rows, as a `Store` would commit them."""

    def __init__(self, meta: StoreMeta) -> None:
        self.meta = meta
        self.tables: list[pa.Table] = []

    def replace(self, batch: Sequence[IndexedDocument]) -> None:
        """Check and keep."""
        self.tables.append(rows_of(batch, self.meta.layout))


class ShardWorker:
    """Encodes shards with a model that is loaded once.

    Args:
        load: gives the encoder.
        settings: how documents are cut.
    """

    def __init__(self, load: Callable[[], Encoder], settings: ChunkSettings) -> None:
        self._encoder = load()
        self._chunker = Chunker(self._encoder, settings)

    def run(self, job: Job, shard: Shard, leave_out: frozenset[str] = frozenset()) -> Finished:
        """Read, cut and encode a shard, and write its rows as fragments that are not committed.

        Args:
            job: the run's, of the same settings.
            shard: what to read.
            leave_out: ids that another shard has taken.
        """
        job.meta.require_fingerprint(self._encoder.fingerprint, "this worker's model", job.table)
        rows = _Rows(job.meta)
        batches = Batches(rows, self._encoder, self._chunker, batch_chunks=job.batch_chunks)
        reading = _Reading(job.known, leave_out, batches)
        settings = source_settings(self._chunker.settings)
        with Isolated(job.parse_seconds) as isolated:
            for piece in shard.pieces:
                for source in sources_of(piece.file, settings, isolated, piece.stretch):
                    reading.take(piece.file, source)
        batches.flush()
        return Finished(
            _written(rows.tables, job),
            tuple(reading.encoded),
            tuple(reading.unchanged),
            tuple(reading.failed),
            batches.chunks,
            batches.tokens,
            batches.truncated,
        )


class _Reading:
    """Which documents of a shard were met, and what came of each."""

    def __init__(self, known: Mapping[str, str], leave_out: frozenset[str], batches: Batches) -> None:
        self._known, self._batches, self._seen = known, batches, set(leave_out)
        self.encoded: list[str] = []
        self.unchanged: list[str] = []
        self.failed: list[tuple[str, str, str]] = []

    def take(self, file: FoundFile, source: Source | Failure) -> None:
        """Take up what a file holds."""
        if isinstance(source, Failure):
            self.failed.append((file.doc_id, source.path, source.reason))
        elif source.doc_id in self._seen:
            self.failed.append((file.doc_id, str(file.path), f"its id {source.doc_id!r} is taken by another document"))
        elif self._known.get(source.doc_id) == source.content_hash:
            self._seen.add(source.doc_id)
            self.unchanged.append(source.doc_id)
        else:
            self._seen.add(source.doc_id)
            try:
                document = source.read()
            except ReadError as error:
                self.failed.append((file.doc_id, str(file.path), str(error)))
                return
            self._batches.add(document, source.content_hash)
            self.encoded.append(source.doc_id)


def _written(tables: Sequence[pa.Table], job: Job) -> tuple[str, ...]:
    if not tables:
        return ()
    from lance.fragment import write_fragments

    rows = pa.concat_tables(tables)
    fragments: Any = write_fragments(rows, job.table, schema=table_schema(job.meta.layout), mode="append")
    return tuple(json.dumps(fragment.to_json()) for fragment in fragments)
