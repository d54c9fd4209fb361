"""`ContextCache`: passages encoded once, for as long as model, passage and tenant are the same.

A row's key hashes tenant, encoder fingerprint and chunk, so a hit can cross none of them: what another tenant has
asked can neither be read nor be told from how long an answer takes (the audit of arXiv 2502.07776 is a test). Each
passage is encoded by itself, as CEPE and XC-Cache's chunked contexts do, so any set of passages is made of hits.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..embedder.encoder import Encoder
from ..index.documents import Chunk
from ..index.schema import chunk_id
from ..index.store import Store
from .segments import Segments, StateDtype
from .states import States, encode_states

FOLDER = "context"
BUDGET_BYTES = 256 << 20
_WRITE_CHUNKS = 1024
_ENCODE_CHUNKS = 128
Encode = Callable[[Sequence[str]], list[States]]


@dataclass(frozen=True)
class CacheCounters:
    """What a cache has done since it was made.

    Attributes:
        hits: passages found in memory or on disk; of these `disk_hits` on disk.
        misses: passages that had to be encoded.
        corrupt: rows or files on disk that did not match their checksums; each was encoded again, none was used.
        evictions: passages dropped from memory to stay within the budget.
        cached_tokens: tokens that hits supplied.
        bytes: held in memory now.
    """

    hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    corrupt: int = 0
    evictions: int = 0
    cached_tokens: int = 0
    bytes: int = 0


class ContextCache:
    """States of passages: in memory up to a budget, and memory-mapped from a store's folder. Threads may share it."""

    def __init__(
        self, encode: Encode, fingerprint: str, *, folder: Path | None = None, budget_bytes: int = BUDGET_BYTES
    ) -> None:
        """Make a cache.

        Args:
            encode: makes the states of texts, each by itself.
            fingerprint: of what `encode` runs; rows of any other are never seen.
            folder: where `cache_context` writes, None for memory alone.
            budget_bytes: memory for states; the least recently used go first.
        """
        self._encode = encode
        self._fingerprint = fingerprint
        self._folder = folder
        self._budget = budget_bytes
        self._rows: OrderedDict[str, States] = OrderedDict()
        self._segments: dict[str, Segments] = {}
        self._guard = threading.Lock()
        self._counters = CacheCounters()
        self._held = 0

    @classmethod
    def of(cls, store: Store, encoder: Encoder, *, budget_bytes: int = BUDGET_BYTES) -> ContextCache:
        """The cache of a store's passages by its encoder."""
        return cls(
            lambda texts: encode_states(encoder, texts),
            encoder.fingerprint,
            folder=store.root / FOLDER,
            budget_bytes=budget_bytes,
        )

    @property
    def counters(self) -> CacheCounters:
        """What happened so far."""
        with self._guard:
            corrupt = sum(segments.corrupt for segments in self._segments.values())
            return replace(self._counters, corrupt=corrupt, bytes=self._held)

    def get(self, chunks: Sequence[Chunk], tenant: str = "") -> tuple[list[States], int]:
        """States of chunks, and how many of their tokens came from the cache.

        Passages that are missing are encoded together, and kept in memory where the budget allows.
        """
        keys = [self.key(chunk, tenant) for chunk in chunks]
        found: dict[str, States] = {}
        with self._guard:
            segments = self._on_disk(tenant)
            for key in keys:
                if (row := self._look_up(key, segments)) is not None:
                    found[key] = row
        cached_tokens = sum(len(found[key]) for key in keys if key in found)
        missing = {key: chunk.text for key, chunk in zip(keys, chunks, strict=True) if key not in found}
        made = dict(zip(missing, self._encode(list(missing.values())), strict=True)) if missing else {}
        with self._guard:
            for key, row in made.items():
                self._remember(key, row)
            count = self._counters
            self._counters = replace(
                count, misses=count.misses + len(made), cached_tokens=count.cached_tokens + cached_tokens
            )
        found |= made
        return [found[key] for key in keys], cached_tokens

    def key(self, chunk: Chunk, tenant: str) -> str:
        """A chunk's key under a tenant and this cache's model."""
        parts = "\0".join((tenant, self._fingerprint, chunk_id(chunk)))
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()

    def store_missing(self, chunks: Sequence[Chunk], tenant: str, dtype: StateDtype) -> int:
        """Encode and write the chunks that are not on disk; returns how many. The caller holds the writer's lock."""
        with self._guard:
            segments = self._on_disk(tenant)
        if segments is None:
            return 0
        wanted = {self.key(chunk, tenant): chunk for chunk in chunks}
        missing = [(key, chunk) for key, chunk in wanted.items() if key not in segments]
        for start in range(0, len(missing), _WRITE_CHUNKS):
            part = missing[start : start + _WRITE_CHUNKS]
            rows: list[States] = []
            for i in range(0, len(part), _ENCODE_CHUNKS):
                rows += self._encode([chunk.text for _, chunk in part[i : i + _ENCODE_CHUNKS]])
            segments.write([(key, row) for (key, _), row in zip(part, rows, strict=True)], dtype)
        return len(missing)

    def forget_others(self, chunks: Sequence[Chunk], tenant: str) -> None:
        """Remove files that mostly hold chunks that are gone. The caller holds the writer's lock."""
        with self._guard:
            if (segments := self._on_disk(tenant)) is not None:
                segments.keep(self.key(chunk, tenant) for chunk in chunks)

    def _on_disk(self, tenant: str) -> Segments | None:
        if self._folder is None:
            return None
        if tenant not in self._segments:
            name = hashlib.blake2b(f"{tenant}\0{self._fingerprint}".encode(), digest_size=12).hexdigest()
            self._segments[tenant] = Segments(self._folder / name)
        self._segments[tenant].refresh()
        return self._segments[tenant]

    def _look_up(self, key: str, segments: Segments | None) -> States | None:
        count = self._counters
        if (row := self._rows.get(key)) is not None:
            self._rows.move_to_end(key)
            self._counters = replace(count, hits=count.hits + 1)
        elif segments is not None and (row := segments.read(key)) is not None:
            self._counters = replace(count, hits=count.hits + 1, disk_hits=count.disk_hits + 1)
            self._remember(key, row)
        return row

    def _remember(self, key: str, row: States) -> None:
        if row.nbytes > self._budget:
            return
        if (old := self._rows.pop(key, None)) is not None:
            self._held -= old.nbytes
        self._rows[key] = row
        self._held += row.nbytes
        while self._held > self._budget:
            _, oldest = self._rows.popitem(last=False)
            self._held -= oldest.nbytes
            self._counters = replace(self._counters, evictions=self._counters.evictions + 1)


def cache_context(store: Store, encoder: Encoder, *, tenant: str = "", dtype: StateDtype = "float16") -> int:
    """Encode the passages of a store that are not cached yet, and forget those that are gone; returns how many.

    Raises:
        StoreLocked: another process is writing to the store.
    """
    cache = ContextCache.of(store, encoder)
    with store.writer():
        chunks = [chunk for doc_id in store.documents() for chunk in store.chunks(doc_id)]
        cache.forget_others(chunks, tenant)
        return cache.store_missing(chunks, tenant, dtype)
