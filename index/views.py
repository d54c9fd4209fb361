"""What a `Searcher` keeps in memory between queries: the accelerators in use and the vectors they do not cover."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import accelerator, dense, segments, sparse
from .accelerator import Accelerator
from .dense import DenseView
from .generations import UnusableGeneration, current
from .lance_ann import LanceView, kind_of
from .seismic import Segment
from .shown import ShownRows
from .snapshot import Snapshot
from .sparse import SparseView
from .store import Store

_log = logging.getLogger(__name__)
T = TypeVar("T")


class Generation(Generic[T]):
    """The generation in use below one folder, loaded again whenever another is put in use.

    Attributes:
        reason: why one that is there is not used; empty otherwise.
    """

    def __init__(self, folder: Path, load: Callable[[], T], nothing: T) -> None:
        self._folder, self._load, self._nothing = folder, load, nothing
        self._mark = ""
        self._value = nothing
        self.reason = ""

    def value(self) -> T:
        """What is in use now, or the `nothing` given."""
        mark = current(self._folder)
        if mark != self._mark:
            self._mark = mark
            try:
                self._value, self.reason = self._load(), ""
            except UnusableGeneration as reason:
                self._value = self._nothing
                self.reason = f"the accelerator is not used because {reason}: build it again"
                _log.warning("%s: exact search, %s", self._folder, self.reason)
        return self._value


class Views:
    """The dense and the sparse side of the newest snapshot asked for. Threads may share it."""

    def __init__(self, store: Store) -> None:
        meta = store.meta
        self._guard = threading.Lock()
        self._dense: DenseView | None = None
        self._sparse: SparseView | None = None
        self._rows = ShownRows()
        self.dense_generation = Generation[Accelerator | None](
            store.dense_folder, lambda: accelerator.load(store.dense_folder, meta.fingerprint, meta.layout.width), None
        )
        self.sparse_generation = Generation[tuple[Segment, ...]](
            store.sparse_folder, lambda: segments.load(store.sparse_folder, meta.fingerprint, meta.terms), ()
        )

    def dense(self, snapshot: Snapshot) -> DenseView | LanceView:
        """The dense side of a snapshot; vectors already in memory are kept."""
        if kind_of(snapshot):
            return LanceView(snapshot)
        with self._guard:
            sealed, old = self.dense_generation.value(), self._dense
            if old is None or old.snapshot is not snapshot or old.sealed is not sealed:
                self._dense = old = dense.view_of(snapshot, sealed, old)
                if (fresh := snapshot.rows.fresh) is not None:
                    self._rows.add(snapshot.keys[len(snapshot) - len(fresh) :], fresh)
            return old

    def shown(self, snapshot: Snapshot, positions: NDArray[np.int64]) -> list[dict[str, Any]]:
        """`HIT_COLUMNS` of the rows at some positions, from what is in memory or from the snapshot's table."""
        view = self._dense
        if view is None or view.snapshot is not snapshot or view.sealed is None:
            return self._rows.take(snapshot, positions)
        sealed = view.sealed_rows(positions)
        others = iter(self._rows.take(snapshot, positions[[row is None for row in sealed]]))
        return [next(others) if row is None else row for row in sealed]

    def sparse(self, snapshot: Snapshot) -> SparseView:
        """The sparse side of a snapshot; postings already in memory are kept."""
        with self._guard:
            sealed, old = self.sparse_generation.value(), self._sparse
            if old is None or old.snapshot is not snapshot or old.segments is not sealed:
                self._sparse = old = sparse.view_of(snapshot, sealed, old)
            return old
