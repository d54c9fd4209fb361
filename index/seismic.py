"""Sealed sparse segments: Seismic over rows that no longer change (Bruch et al., SIGIR 2024, arXiv 2404.18812).

Seismic can neither add nor delete, so rows that went are masked out of its answers, rows that came are searched
exactly until they are sealed as another segment, and segments are merged when there are many. It keeps weights as
float16, to which rows are rounded when they are stored: its scores are theirs, but for the order of a sum. Rows that an
older Decant stored are scored again. It holds the interpreter's lock while it searches (a millisecond) and while it
builds, and prints as it builds: building happens in a process of its own.
"""

from __future__ import annotations

import importlib.util
import math
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from .errors import StoreError
from .postings import NOTHING, Scored, best_of, exact_scores

INDEX, INDPTR, TERMS, WEIGHTS, KEYS = "index.seismic", "indptr.npy", "terms.npy", "weights.npy", "keys.npy"
FILES = (INDEX, INDPTR, TERMS, WEIGHTS, KEYS)
# The query's heaviest terms that are followed, and how much of the k-th score a block must promise to be opened.
QUERY_CUT = 20
HEAP_FACTOR = 0.8
# Rows this few are scored one by one in less time than Seismic takes.
EXACT_ROWS = 2_000
# Terms beyond this need Seismic's wide variant.
NARROW_TERMS = 65_535
_BUILD = """
import sys, seismic
source, target, kind = sys.argv[1:]
getattr(seismic, kind).build(source).save(target)
"""


@dataclass(frozen=True)
class Segment:
    """One sealed segment, loaded.

    Attributes:
        index: Seismic's; row i is `keys[i]`.
        rows: (n, V) float32 CSR, memory-mapped, none empty.
        keys: (n,) int64, see `schema.table_schema`.
        terms: V.
        halves: whether every weight is a number of float16, so that Seismic's scores are right.
    """

    index: Any
    rows: csr_array
    keys: NDArray[np.int64]
    terms: int
    halves: bool

    def __len__(self) -> int:
        return len(self.keys)

    def search(
        self,
        terms: NDArray[np.int32],
        weights: NDArray[np.float32],
        k: int,
        allowed: NDArray[np.bool_] | None,
        *,
        exact: bool = False,
    ) -> Scored:
        """Rows likely to be among the k best, and their scores; arguments as of `Postings.search`, `exact` for surely.

        Where a filter leaves a share s of the rows, k / s are asked for, and more until k have passed; where it
        leaves few, exactly those are scored.
        """
        left = len(self) if allowed is None else int(np.count_nonzero(allowed))
        if not left:
            return NOTHING
        if exact or left <= EXACT_ROWS:
            return self._exact(terms, weights, k, allowed)
        fetch = min(len(self), math.ceil(1.2 * k * len(self) / left) if allowed is not None else k)
        while True:
            found = self.index.search(terms, weights, fetch, QUERY_CUT, HEAP_FACTOR, 0, True)
            rows = np.fromiter([row for _, row in found], np.int64, len(found))
            scores = np.fromiter([score for score, _ in found], np.float32, len(found))
            if allowed is not None:
                passed = allowed[rows]
                rows, scores = rows[passed], scores[passed]
            if len(rows) >= k or len(found) < fetch or fetch == len(self):
                return rows, scores if self.halves else exact_scores(self.rows, rows, terms, weights)
            fetch = min(len(self), 4 * fetch)
            if 4 * fetch > len(self):
                return self._exact(terms, weights, k, allowed)

    def _exact(
        self, terms: NDArray[np.int32], weights: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> Scored:
        query = np.zeros(self.terms, np.float32)
        query[terms] = weights
        if allowed is None:
            found = best_of(self.rows @ query, k, None)
        else:
            places = np.flatnonzero(allowed)
            found = places[best_of(self.rows[places] @ query, k, None)]
        return found, exact_scores(self.rows, found, terms, weights)


def missing() -> str:
    """Why Seismic cannot be used here; empty where it can."""
    if importlib.util.find_spec("seismic") is None:
        return "pyseismic-lsr is not installed: pip install 'decant[sparse]'"
    return ""


def write_segment(folder: Path, number: int, keys: NDArray[np.int64], rows: csr_array, terms: int) -> None:
    """Build segment `number` of a generation's folder from (n, V) rows; rows without a term are left out.

    Raises:
        StoreError: Seismic failed.
    """
    full = np.diff(rows.indptr) > 0
    keys, rows = keys[full], csr_array(rows[full])
    # Both index arrays of a scipy matrix have one type, 64 bits only where the numbers ask for it: what is scored again
    # lies scattered, and half the bytes are half the cache misses.
    places = np.int32 if rows.nnz <= np.iinfo(np.int32).max else np.int64
    arrays = {INDPTR: rows.indptr.astype(places), TERMS: rows.indices.astype(places), WEIGHTS: rows.data, KEYS: keys}
    for name, array in arrays.items():
        np.save(folder / f"{number}-{name}", array)
    source, target = folder / "rows.bin", folder / f"{number}-{INDEX}"
    _write_raw(source, rows)
    kind = "SeismicIndexRaw" if terms <= NARROW_TERMS else "SeismicIndexRawLV"
    command = [sys.executable, "-c", _BUILD, str(source), str(target), kind]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=os.environ, check=False)
    source.unlink()
    if done.returncode or not target.exists():
        last = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
        raise StoreError(
            f"the sparse accelerator could not be built ({' '.join(last)[:160]}): sparse search stays exact"
        )


def are_halves(rows: csr_array) -> bool:
    """Whether every weight is a number of float16."""
    return bool((rows.data == rows.data.astype(np.float16)).all())


def load_segment(paths: dict[str, Path], number: int, terms: int, *, halves: bool) -> Segment:
    """Load segment `number` of a generation whose files were checked; raises ValueError where they do not fit."""
    import seismic

    module: Any = seismic
    place = {name: paths[f"{number}-{name}"] for name in FILES}
    keys = np.load(place[KEYS])
    weights, indices, indptr = (np.load(place[name], mmap_mode="r") for name in (WEIGHTS, TERMS, INDPTR))
    rows = csr_array((weights, indices, np.asarray(indptr, indices.dtype)), shape=(len(keys), terms))
    kind = module.SeismicIndexRaw if terms <= NARROW_TERMS else module.SeismicIndexRawLV
    index = kind.load(str(place[INDEX]))
    if index.len != len(keys):
        raise ValueError("its files do not belong together")
    return Segment(index, rows, keys, terms, halves)


def _write_raw(path: Path, rows: csr_array) -> None:
    """Seismic's own format: the number of rows, then for each its length, its terms and its weights, 4 bytes each."""
    starts, lengths = rows.indptr[:-1].astype(np.int64), np.diff(rows.indptr).astype(np.int64)
    total = 1 + len(lengths) + 2 * int(lengths.sum())
    words = np.memmap(path, np.uint32, "w+", shape=(total,))
    words[0] = len(lengths)
    heads = 1 + np.arange(len(lengths)) + 2 * starts
    words[heads] = lengths
    inside = np.arange(int(lengths.sum())) - np.repeat(starts, lengths)
    places = np.repeat(heads, lengths) + 1 + inside
    words[places] = rows.indices
    words[places + np.repeat(lengths, lengths)] = rows.data.astype(np.float32).view(np.uint32)
    words.flush()
