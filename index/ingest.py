"""Folders into a store: read, cut, encode and keep what has changed, and only that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from ..embedder.errors import InputError
from .batches import BATCH_CHUNKS, Batches, settings_mark
from .chunking import DEFAULT_CHUNK_TOKENS, Chunker, ChunkSettings
from .encoder import Encoder
from .readers import formats
from .readers.isolated import PARSE_SECONDS, Isolated
from .readers.parsed import ReadError
from .roots import Part, assign, load_roots, save_roots
from .sources import Source, sources_of
from .store import Store
from .walk import Failure, Findings, FoundFile, walk


@dataclass(frozen=True)
class IndexProgress:
    """Where a run stands; `bytes_done` of `bytes_total`, of what is read and encoded, is the fraction to show."""

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
    late_chunking: bool = False,
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
        late_chunking: encode each document whole and pool its chunks from it, instead of encoding them alone.
        parse_seconds: what parsing one PDF, HTML or Word file may take.
        batch_chunks: chunks encoded and committed together.
        progress: called after each file and each stretch of encoding.

    Raises:
        InputError: a path that is not there, or settings that make no sense; nothing is changed.
        StoreLocked: another process is writing.
    """
    chunker = Chunker(encoder, ChunkSettings(chunk_tokens, overlap, late_chunking))
    with store.writer(), Isolated(parse_seconds) as isolated:
        parts, findings = walked(store, paths)
        batches = Batches(store, encoder, chunker, batch_chunks=batch_chunks)
        run = _Run(store, batches, findings, progress)
        settings = source_settings(chunker.settings)
        for file in findings.files:
            run.add(file, sources_of(file, settings, isolated))
        return run.finish(parts)


def walked(store: Store, paths: Sequence[Path]) -> tuple[list[Part], Findings]:
    """What `paths` cover and what lies there; the roots are kept, so the writer's lock must be held.

    Raises:
        InputError: no path, or one where nothing is.
    """
    if not paths:
        raise InputError("nothing to index: name a folder or a file")
    known = load_roots(store.place)
    parts, roots = assign(paths, known)
    findings = _walk(parts, store.root)
    if roots != known:
        save_roots(store.place, roots)
    return parts, findings


def source_settings(settings: ChunkSettings) -> str:
    """What every document's hash holds besides its bytes."""
    return f"{formats.VERSION} {settings_mark(settings)}"


def tidied(store: Store) -> None:
    """Bring a store that was changed in order: compaction, indexes, accelerators."""
    store.optimize()
    store.build_accelerator()
    store.seal_sparse()


def vanished(known: Iterable[str], seen: Container[str], failed: Set[str], parts: Sequence[Part]) -> list[str]:
    """Those of the `known` documents of the parts covered that the walk has not `seen`; failures stay what they were.

    Args:
        known: ids in the store.
        seen: ids met.
        failed: ids, or beginnings of ids, of what could not be read.
        parts: what was walked.
    """
    covered = {part.doc_id for part in parts}
    unmet = (doc_id for doc_id in known if doc_id not in seen)
    return [
        doc_id
        for doc_id in unmet
        if not covered.isdisjoint(prefixes := set(_prefixes(doc_id))) and failed.isdisjoint(prefixes)
    ]


def _walk(parts: Sequence[Part], store_folder: Path) -> Findings:
    findings = Findings()
    for part in parts:
        if part.path.exists():
            walk(part.path, part.doc_id, findings, leave_out={*part.leave_out, store_folder.resolve()})
    return findings


class _Run:
    """The state of one call of `index_paths`: what was known before, what has been met, what came of it."""

    def __init__(
        self, store: Store, batches: Batches, findings: Findings, progress: Callable[[IndexProgress], None] | None
    ) -> None:
        self._store, self._batches, self._findings, self._progress = store, batches, findings, progress
        batches.on_encoded, batches.on_stored = self._tell, self._count_stored
        self._known = dict(store.documents())
        self._seen: set[str] = set()
        self._failed = list(findings.failed.values())
        self._failed_ids = set(findings.failed)
        self._bytes_total = sum(file.size for file in findings.files)
        self._files_done = self._bytes_read = self._bytes_stored = 0
        self._path = ""
        self._count: Counter[str] = Counter()

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
        self._bytes_read += file.size
        if not self._batches.waiting:
            self._bytes_stored = self._bytes_read
        self._tell()

    def finish(self, parts: Sequence[Part]) -> IndexReport:
        """Store the last batch, remove what has vanished from `parts`, and tidy a store that was changed."""
        self._batches.flush()
        gone = vanished(self._known, self._seen, self._failed_ids, parts)
        if gone:
            self._count["removed"] = self._store.delete(gone)
        if self._count["added"] or self._count["changed"] or self._count["removed"]:
            tidied(self._store)
        return IndexReport(
            added=self._count["added"],
            changed=self._count["changed"],
            unchanged=self._count["unchanged"],
            removed=self._count["removed"],
            failed=tuple(sorted(self._failed, key=str)),
            ignored=tuple(sorted(self._findings.ignored, key=str)),
            chunks=self._batches.chunks,
            tokens=self._batches.tokens,
            truncated=self._batches.truncated,
        )

    def _take(self, file: FoundFile, source: Source) -> None:
        known = self._known.get(source.doc_id)
        if known is not None and known.content_hash == source.content_hash:
            self._count["unchanged"] += 1
            return
        try:
            document = source.read()
        except ReadError as error:
            self._fail(file, Failure(self._path, str(error)))
            return
        self._batches.add(document, source.content_hash)

    def _fail(self, file: FoundFile, failure: Failure) -> None:
        self._failed.append(failure)
        self._failed_ids.add(file.doc_id)

    def _count_stored(self, doc_ids: list[str]) -> None:
        self._bytes_stored = self._bytes_read
        for doc_id in doc_ids:
            self._count["changed" if doc_id in self._known else "added"] += 1

    def _tell(self, share: float = 0.0) -> None:
        """Report; `share` of what is read and not stored yet has been encoded."""
        if self._progress is None:
            return
        bytes_done = self._bytes_stored + int(share * (self._bytes_read - self._bytes_stored))
        files_total, batches = len(self._findings.files), self._batches
        self._progress(
            IndexProgress(
                self._files_done,
                files_total,
                bytes_done,
                self._bytes_total,
                batches.chunks,
                batches.tokens,
                self._path,
            )
        )


def _prefixes(doc_id: str) -> Iterator[str]:
    """Yield the id itself and what it begins with: its folders, and its file if it is a record's."""
    yield doc_id
    for position, character in enumerate(doc_id):
        if character in "/#":
            yield doc_id[:position]
