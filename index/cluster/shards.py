"""What one task of a cluster reads: some whole files, or a stretch of a long `.jsonl`."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..readers.formats import JSONL
from ..sources import WHOLE, Stretch
from ..walk import FoundFile

# At 30,000 tokens a second and core some two minutes of work: what a kill can lose, and what a worker holds in memory.
SHARD_BYTES = 16 << 20
SHARD_FILES = 2_000
# So that no worker waits long for the last one.
SHARDS_PER_WORKER = 4


@dataclass(frozen=True)
class Piece:
    """A file, or a stretch of its lines; `changed` is its time of change, so that a shard that was done is known."""

    file: FoundFile
    stretch: Stretch
    changed: int

    @property
    def bytes(self) -> int:
        """How much of the file it is."""
        return self.file.size if self.stretch == WHOLE else self.stretch.end - self.stretch.begin


@dataclass(frozen=True)
class Shard:
    """What one task reads, in the order of the walk."""

    pieces: tuple[Piece, ...]

    @property
    def bytes(self) -> int:
        """How much text it is."""
        return sum(piece.bytes for piece in self.pieces)

    @property
    def name(self) -> str:
        """A digest of what is read: the same files, unchanged, have the same name in every run."""
        parts = [(p.file.doc_id, str(p.file.path), p.file.size, p.changed, p.stretch.begin) for p in self.pieces]
        return hashlib.blake2b(json.dumps(parts).encode(), digest_size=12).hexdigest()


def shard_bytes(files: Iterable[FoundFile], workers: int) -> int:
    """How much a shard of these files should hold for so many workers."""
    total = sum(file.size for file in files)
    return max(1, min(SHARD_BYTES, total // (SHARDS_PER_WORKER * workers) + 1))


def shards_of(files: Iterable[FoundFile], limit: int) -> list[Shard]:
    """Cut a walk into shards of about equal size, the same ones every time.

    Args:
        files: in the walk's order, which the order of the shards and of their pieces keeps.
        limit: bytes of a shard; a longer file that is no `.jsonl` is a shard of its own.
    """
    shards: list[Shard] = []
    waiting: list[Piece] = []
    size = 0
    for piece in _pieces(files, limit):
        if waiting and (size + piece.bytes > limit or len(waiting) >= SHARD_FILES):
            shards.append(Shard(tuple(waiting)))
            waiting, size = [], 0
        waiting.append(piece)
        size += piece.bytes
    return [*shards, Shard(tuple(waiting))] if waiting else shards


def _pieces(files: Iterable[FoundFile], limit: int) -> Iterator[Piece]:
    for file in files:
        try:
            changed = os.stat(file.path).st_mtime_ns
        except OSError:
            changed = 0  # the worker that opens it says what is wrong
        if file.format == JSONL and file.size > limit:
            yield from (Piece(file, stretch, changed) for stretch in _stretches(file.path, limit))
        else:
            yield Piece(file, WHOLE, changed)


def _stretches(path: Path, limit: int) -> Iterator[Stretch]:
    """Cut a file at line ends; a line longer than the limit is a stretch of its own."""
    begin = place = 0
    first = number = 1
    try:
        with path.open("rb") as lines:
            for line in lines:
                if place > begin and place + len(line) - begin > limit:
                    yield Stretch(begin, place, first)
                    begin, first = place, number
                place += len(line)
                number += 1
    except OSError:
        place = max(place, begin + 1)  # again the worker's to tell
    yield Stretch(begin, place, first)
