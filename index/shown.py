"""What a search shows of rows, kept in memory by key for a process that searches often.

Ten rows come out of Lance in two milliseconds, behind five changes of threads, and out of here in a tenth of one. A
row's key speaks for all that is shown of it, so what is held stays right whatever is committed.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from .snapshot import HIT_COLUMNS, Snapshot

# A process that has read from the table so many times reads all rows, if they are no more than these; a command that
# searches once does not.
READS, MOST_ROWS = 32, 50_000
# Beyond so many bytes everything is forgotten.
ROOM = 128 << 20


class ShownRows:
    """`HIT_COLUMNS` of rows by key. Threads may share it."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._places: dict[int, tuple[pa.RecordBatch, int]] = {}
        self._bytes = self._reads = 0

    def take(self, snapshot: Snapshot, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """The rows at some positions."""
        keys = snapshot.keys[positions].tolist()
        held = [self._places.get(key) for key in keys]
        lacking = [number for number, place in enumerate(held) if place is None]
        if lacking:
            self._reads += 1
            if self._reads == READS and len(snapshot) <= MOST_ROWS:
                rows = snapshot.scan(HIT_COLUMNS)
                self.add(snapshot.keys[snapshot.positions(rows["_rowid"].to_numpy())], rows)
            missed = positions[lacking]
            rows = snapshot.take(missed, HIT_COLUMNS)
            self.add(snapshot.keys[missed], rows)
            for number, row in zip(lacking, rows.to_pylist(), strict=True):
                held[number] = row
        return [place if isinstance(place, dict) else _row(*place) for place in held if place is not None]

    def add(self, keys: NDArray[np.int64], rows: pa.Table) -> None:
        """Keep rows, which have `HIT_COLUMNS` among theirs, for later."""
        with self._guard:
            if self._bytes > ROOM:
                self._places, self._bytes = {}, 0
            begin = 0
            for batch in rows.select(list(HIT_COLUMNS)).to_batches():
                self._bytes += batch.nbytes
                mine = keys[begin : begin + batch.num_rows].tolist()
                self._places.update((key, (batch, number)) for number, key in enumerate(mine))
                begin += batch.num_rows


def _row(batch: pa.RecordBatch, number: int) -> dict[str, Any]:
    return {name: column[number].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
