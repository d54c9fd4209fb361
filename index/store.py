"""`Store`: the one durable truth. Documents, chunks, metadata and vectors in one LanceDB table, one writer at a time.

    with Store.open("./.decant", encoder=encoder, create=True) as store, store.writer():
        store.replace([IndexedDocument(document, content_hash, chunks, vectors)])

Every `replace` and `delete` is one commit: a reader, or whoever opens the store after a crash, sees all of it or
none. Readers take no lock and see a commit with their next call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import lancedb
from lancedb.table import Table

from ..embedder.errors import InputError
from . import accelerator, copies, generations, lance_ann, segments
from .content import content_digest
from .documents import Chunk, Document
from .encoder import Encoder
from .errors import BatchError, StoreDamaged, StoreReadOnly, lance_errors
from .follow import Follower
from .info import dense_status, describe
from .journal import RECENT, Journal
from .meta import META_FILE, StoreMeta
from .opening import ACCELERATORS, locate, lock_of, model_name
from .pinned import Tables
from .place import LANCE, Place, place_of
from .present import Present, any_of
from .schema import TABLE, DocumentState, IndexedDocument, describes, rows_of
from .snapshot import Snapshot, chunk_of, metadata_of
from .upkeep import Upkeep

COPY_SECONDS = 30.0
T = TypeVar("T")
# An accelerator is rebuilt once its exact tail and its tombstones together exceed this share of its rows.
REBUILD_FRACTION = 0.1


class Store:
    """A folder, or a prefix of a bucket, with indexed documents. Open it with `Store.open`, never with the constructor.

    Attributes:
        place: where it is.
        root: the folder on this machine: the store itself, or of a bucket's store, copies that can be made again.
        table: LanceDB's, for the modules of this folder.
    """

    def __init__(self, place: Place, meta: StoreMeta, *, read_only: bool) -> None:
        self.place = place
        self.root = place.folder
        self._meta = meta
        self._read_only = read_only
        self._lock = lock_of(place)
        self._guard = threading.RLock()
        self._depth = 0
        self._copied = (-1, 0.0)
        self._indexes_proven = False
        self._one_write = threading.RLock()
        with lance_errors(place):
            self.table: Table = lancedb.connect(place.tables, read_consistency_interval=timedelta(0)).open_table(TABLE)
            described = describes(meta.layout, self.table.schema)
        if not described:
            raise StoreDamaged(
                f"{place}/{META_FILE} does not describe the tables beside it: restore it from a backup, or index into "
                "a new folder"
            )
        self._journal = Journal(place.folder / RECENT, place.folder / LANCE / f"{TABLE}.lance")
        self._follower = Follower(place, meta.layout, self._journal, self._version)
        self._upkeep = Upkeep(self.table, self._journal)
        self._present = Present(self.table, self.snapshot)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        encoder: Encoder | None = None,
        create: bool = False,
        read_only: bool = False,
        outputs: Sequence[str] | None = None,
    ) -> Self:
        """Open a store, or create it.

        Args:
            path: the store's folder, or `s3://bucket/prefix`.
            encoder: whose vectors the store holds or will hold; required to create one.
            create: whether to create the store if there is none.
            read_only: refuse every write, and open an older schema's store only if it needs no migration.
            outputs: representations that its rows hold: `dense` and what else of the encoder's, None for the encoder's
                `indexed_outputs`. A store that is there already keeps its own, and must hold these.

        Raises:
            InputError: `outputs` are none of the encoder's, or none of the store's.
            StoreNotFound: nothing is there and `create` is False.
            StoreMismatch: another encoder made the store.
            StoreVersionError: the schema is newer, or older and `read_only` is set.
            StoreDamaged: its files cannot be read.
            StoreLocked: it must be created or migrated and another process is writing.
        """
        place = place_of(path)
        meta = locate(place, encoder, create=create and not read_only, read_only=read_only, outputs=outputs)
        if outputs is not None and (lacking := sorted(set(outputs) - set(meta.layout.outputs))):
            raise InputError(
                f"the store at {place} was made without {lacking[0]} vectors: index into a new folder to have them"
            )
        if encoder is not None:
            meta.require_fingerprint(encoder.fingerprint, model_name(encoder), place)
        return cls(place, meta, read_only=read_only)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the writer's lock, if held; files need no closing."""
        self._lock.release()

    @property
    def meta(self) -> StoreMeta:
        """What the store is."""
        return self._meta

    # Reading

    def snapshot(self) -> Snapshot:
        """The newest version; the same object as long as nobody commits."""
        found = self._follower.snapshot()
        self._copy_accelerators(found.version)
        return found

    def _copy_accelerators(self, version: int) -> None:
        """Fetch what a bucket's writer has built, at once after a commit and otherwise every half a minute."""
        if not self.place.remote or self._lock.held:
            return
        now = time.monotonic()
        if version != self._copied[0] or now - self._copied[1] > COPY_SECONDS:
            for folder in (self.dense_folder, self.sparse_folder):
                copies.pull(self.place, folder)
            self._copied = (version, now)

    def read(self, run: Callable[[Snapshot], T]) -> T:
        """Call `run` with the newest version; with a newer one again if a writer's clean-up removed its files."""
        return self._follower.read(run, self.snapshot)

    def documents(self) -> Mapping[str, DocumentState]:
        """Every indexed document by doc_id."""
        columns = ["doc_id", "content_hash", "path", "title", "media", "n_chunks"]
        rows = self.read(lambda snapshot: snapshot.scan(columns, "ordinal = 0"))
        lists = [rows[column].to_pylist() for column in columns]
        return {values[0]: DocumentState(*values) for values in zip(*lists, strict=True)}

    def document(self, doc_id: str) -> Document:
        """A document as it was stored; KeyError if it is not there."""
        columns = ["doc_id", "document", "title", "path", "media", "metadata"]
        row = self._rows(doc_id, columns, "ordinal = 0")[0]
        return Document(row["doc_id"], row["document"], row["title"], row["path"], row["media"], metadata_of(row))

    def texts(self, doc_ids: Sequence[str]) -> dict[str, tuple[str, str]]:
        """Whole text and kind of each document, see `Document.media`; one that is not there is left out."""
        columns = ["doc_id", "document", "media"]
        rows = self.read(lambda snapshot: snapshot.scan(columns, f"ordinal = 0 AND {any_of(doc_ids)}"))
        texts, media = rows["document"].to_pylist(), rows["media"].to_pylist()
        return dict(zip(rows["doc_id"].to_pylist(), zip(texts, media, strict=True), strict=True))

    def text(self, doc_id: str) -> str:
        """A document's whole text; KeyError if it is not there."""
        return cast(str, self._rows(doc_id, ["document"], "ordinal = 0")[0]["document"])

    def chunks(self, doc_id: str) -> list[Chunk]:
        """A document's chunks in order; KeyError if it is not there."""
        columns = ["doc_id", "ordinal", "start_char", "end_char", "text"]
        return sorted((chunk_of(row) for row in self._rows(doc_id, columns)), key=lambda chunk: chunk.ordinal)

    def chunk(self, doc_id: str, ordinal: int) -> Chunk:
        """One chunk; KeyError if it is not there."""
        columns = ["doc_id", "ordinal", "start_char", "end_char", "text"]
        return chunk_of(self._rows(doc_id, columns, f"ordinal = {int(ordinal)}")[0])

    def info(self) -> dict[str, Any]:
        """Facts for `decant info`: size, model, how each mode searches and why; checks accelerator checksums."""
        with lance_errors(self.place):
            return self.read(lambda now: describe(self.place, self.meta, now, self.table))

    def digest(self) -> str:
        """A hash of the content; equal for equal content, whatever the files look like."""
        return self.read(content_digest)

    @property
    def dense_folder(self) -> Path:
        """Where the dense accelerator's generations are."""
        return self.root / ACCELERATORS / "dense"

    @property
    def sparse_folder(self) -> Path:
        """Where the sparse accelerator's generations are."""
        return self.root / ACCELERATORS / "sparse"

    # Writing

    @contextmanager
    def writer(self) -> Generator[Self]:
        """Hold the one-writer lock; leaving it without an error sees to the indexes where enough has changed.

        Before the first write, and the next after one that failed, indexes that have lost a file are made anew.

        Raises:
            StoreLocked: another process, or another handle in this one, is writing.
            StoreReadOnly: the store was opened read-only or its folder cannot be written.
        """
        if self._read_only:
            raise StoreReadOnly(f"the store at {self.place} was opened for reading only")
        with self._guard:
            if self._depth == 0:
                self._lock.acquire()
                self._journal.begin()
            self._depth += 1
        try:
            self._prove_indexes()
            yield self
            if self._depth == 1:
                with lance_errors(self.place):
                    self._upkeep.after_writing()
        except StoreDamaged:
            self._indexes_proven = False
            raise
        finally:
            with self._guard:
                self._depth -= 1
                if self._depth == 0:
                    self._lock.release()

    def _prove_indexes(self) -> None:
        with self._one_write:
            if not self._indexes_proven:
                with lance_errors(self.place):
                    # By a connection of its own: others may still have read what is no longer there.
                    self._upkeep.mend(Tables(self.place.tables).newest(TABLE))
                self._indexes_proven = True

    def replace(self, batch: Sequence[IndexedDocument]) -> None:
        """Store whole documents, each in place of what its doc_id held before: one commit.

        Raises:
            BatchError: something in the batch does not fit; nothing of it was stored.
            StoreError: the disk is full or the store damaged; nothing of the batch is visible.
        """
        rows = rows_of(batch, self.meta.layout)
        if not batch:
            return
        with self._writing():
            doc_ids = [entry.document.doc_id for entry in batch]
            with lance_errors(self.place):
                known = self._present.perhaps_among(doc_ids)
                self._journal.prepare(doc_ids, rows)
                if known:
                    merge = self.table.merge_insert("chunk_id").when_matched_update_all()
                    merge = merge.when_not_matched_insert_all().when_not_matched_by_source_delete(any_of(known))
                    done = merge.execute(rows)
                else:
                    done = self.table.add(rows)
                self._journal.commit(done.version)
                self._upkeep.count_commit()
                self._present.committed(doc_ids)

    def delete(self, doc_ids: Iterable[str]) -> int:
        """Remove documents; ids that are not there are passed over. Returns how many were removed."""
        with self._writing(), lance_errors(self.place):
            known = self._present.among(sorted(set(doc_ids)))
            if known:
                self._journal.prepare(known, rows_of([], self.meta.layout))
                self._journal.commit(self.table.delete(any_of(known)).version)
                self._upkeep.count_commit()
                self._present.committed(())
            return len(known)

    def optimize(self, *, keep: timedelta = timedelta(0)) -> None:
        """Compact, bring indexes up to date, and delete versions older than `keep` and what crashes left behind.

        A reader in the middle of a query on a deleted version starts that query again on the newest.
        """
        with self._writing(), lance_errors(self.place):
            # Unverified files are those of commits that never finished; the lock says none is under way. A lease says
            # so less surely, so in a bucket they are left to Lance, which takes them away after a week.
            self._upkeep.tidy(max(keep, timedelta(milliseconds=1)), delete_unverified=not self.place.remote)
            generations.sweep(self.dense_folder)
            generations.sweep(self.sparse_folder)

    def build_accelerator(self, kind: str = "auto") -> str:
        """Build the dense accelerator that suits the store's size.

        Args:
            kind: `auto` (which keeps one that still covers nearly everything), one of `accelerator.KINDS`, one of
                `lance_ann.KINDS`, or `exact` for none.

        Returns:
            What was done and why, one line.
        """
        known = (*accelerator.KINDS, *lance_ann.KINDS)
        if kind not in ("auto", "exact", *known):
            raise BatchError(f"unknown accelerator {kind!r}: choose auto, exact, {', '.join(known)}")
        with self._writing():
            snapshot = self.snapshot()
            chosen, reason = (
                accelerator.choose_kind(len(snapshot), self.meta.layout.width, bucket=self.place.remote)
                if kind == "auto"
                else (kind, "as asked for")
            )
            if chosen in lance_ann.KINDS and self.meta.router:
                chosen, reason = "rabitq", f"{reason}; but that knows no router vectors"
            current = dense_status(self.place, snapshot, self.meta.fingerprint, self.table)
            if kind == "auto" and current["search"] == chosen != "exact" and _fresh(current):
                return f"{chosen}: kept, it covers {current['covered']:,} of {len(snapshot):,} chunks"
            with lance_errors(self.place):
                self._accelerate("exact" if not len(snapshot) else chosen, snapshot, reason)
            return f"{'exact search' if chosen == 'exact' else chosen}: {reason}"

    def seal_sparse(self, kind: str = "auto") -> str:
        """Seal sparse rows into segments where that pays; arguments and result as of `segments.build`."""
        if kind not in ("auto", "seismic", "exact"):
            raise BatchError(f"unknown sparse accelerator {kind!r}: choose auto, seismic or exact")
        if not self.meta.terms:
            return "no sparse vectors: this store's model makes none"
        with self._writing():
            done = segments.build(self.sparse_folder, self.snapshot(), self.meta.fingerprint, kind)
            if self.place.remote:
                copies.push(self.place, self.sparse_folder)
            return done

    def _accelerate(self, kind: str, snapshot: Snapshot, why: str) -> None:
        """Put an accelerator of this kind in use, and no other."""
        if kind in lance_ann.KINDS:
            lance_ann.build(self.table, kind)
        if kind in accelerator.KINDS:
            accelerator.build(self.dense_folder, snapshot, self.meta.fingerprint, kind, why)
        else:
            generations.retire(self.dense_folder)
        if self.place.remote:
            copies.push(self.place, self.dense_folder)
        if kind not in lance_ann.KINDS:
            lance_ann.drop(self.table)

    @contextmanager
    def _writing(self) -> Generator[None]:
        """Use the lock that is held, or hold it for one call; threads that share this handle take turns."""
        with self._one_write:
            if self._lock.held:
                self._lock.check()
                yield
            else:
                with self.writer():
                    yield

    def _version(self) -> int:
        with lance_errors(self.place):
            return self.table.version

    def _rows(self, doc_id: str, columns: Sequence[str], where: str = "true") -> list[dict[str, Any]]:
        found = self.read(lambda snapshot: snapshot.scan(columns, f"{where} AND {any_of([doc_id])}")).to_pylist()
        if not found:
            raise KeyError(doc_id)
        return cast(list[dict[str, Any]], found)


def _fresh(status: Mapping[str, Any]) -> bool:
    """Whether an accelerator's exact tail and tombstones are still a small part of it."""
    return status["exact_tail"] + status["tombstones"] <= REBUILD_FRACTION * status["covered"]
