"""The dense accelerator: a faiss graph or inverted file, plain or quantised, over the vectors of one table version.

Rebuildable from the store at any time and never the only copy of anything. faiss cannot delete from a graph and its
file reader must not see a foreign file: deletes are masked at query time (a bitmap selector), files are checked first
(`generations`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from . import graph_width, passages
from .faiss_threads import threads_for
from .generations import Manifest, UnusableGeneration, publish, read_manifest, verified
from .passages import Passages
from .snapshot import Snapshot
from .topk import candidates, normalize

# Below this many chunks exact search of one query takes a few milliseconds and an accelerator is not worth building.
ACCELERATE_FROM = 50_000
# On 30,000 clustered vectors of 384 dimensions a graph built so takes 0.6 ms of CPU a vector, half of what a build
# width of 200 takes, and both find all of the 10 best at a search width of 128 (0.7 ms a query; exact search: 4.8 ms).
GRAPH_LINKS = 32
GRAPH_BUILD_EF = 100
# Of a graph that was built before its width was measured; see `graph_width`.
GRAPH_SEARCH_EF = 128
INVERTED_PROBES = 128
# What an inverted file keeps of a vector, and how many candidates are scored again exactly for each result wanted:
# quantised scores only choose candidates. A product of 4 bits has 2 dimensions: with 4 of them, as with single bits, 20
# candidates a result held no more than 86 % of real questions' 10 best among 100,000 passages, whatever the probes.
# With 2, among a million, 20 hold 92.8 %, 40 hold 96.6 % for a twentieth more time, and 80 hold 98.5 %.
INVERTED = {"ivf": ("Flat", 1), "int8": ("SQ8", 2), "pq": ("PQ{}x4fs", 40), "rabitq": ("RaBitQ", 20)}
# k-means for the lists; faiss's default, 25 rounds over 256 rows a list, is ten times the work: at a million rows 95 %
# of the 10 best were found with lists made so.
TRAIN_ROUNDS, TRAIN_ROWS_PER_LIST = 10, 64
KINDS = ("hnsw", *INVERTED)
# An accelerator may take this share of the machine's memory, beside the encoder and everything else that runs there.
MEMORY_SHARE = 0.25
# Building reads every vector into memory: beyond this share of it, Lance's own index is built instead, from the disk.
BUILD_SHARE = 0.5
# Beside its vectors a graph keeps 2 * GRAPH_LINKS links of 4 bytes for each row.
GRAPH_BYTES = 8 * GRAPH_LINKS
# One step through that graph costs 3.8 µs, one exact product of a filtered row 0.4 µs.
EXACT_PRODUCTS_PER_STEP = 8
# faiss describes only part of itself to a type checker.
_FAISS: Any = faiss
FAISS_FILE, VECTORS_FILE, KEYS_FILE = "index.faiss", "vectors.npy", "keys.npy"


@dataclass(frozen=True)
class Accelerator:
    """A loaded generation.

    Attributes:
        manifest: what it is.
        index: faiss, inner product over unit vectors, row i is `keys[i]`.
        vectors: (A, D) float32 unit rows, memory-mapped, for rescoring and exact search.
        keys: (A,) int64, see `schema.table_schema`.
        passages: what is shown of every row; None in a generation of an older Decant.
    """

    manifest: Manifest
    index: Any
    vectors: NDArray[np.float32]
    keys: NDArray[np.int64]
    passages: Passages | None

    def exact_is_better(self, k: int, allowed_rows: int) -> bool:
        """Whether a filter leaves so few rows that searching exactly those is faster, and surer."""
        share = max(allowed_rows / len(self.keys), 1e-9)
        if self.manifest.facts["kind"] == "hnsw":
            return allowed_rows <= EXACT_PRODUCTS_PER_STEP * _graph_width(self._width, k, share)
        return allowed_rows <= self._probes(share) * len(self.keys) / int(self.index.nlist)

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: NDArray[np.bool_] | None
    ) -> list[NDArray[np.int64]]:
        """Rows likely to be among the k best of each query.

        Args:
            queries: (Q, D) unit rows.
            k: how many to look for.
            allowed: (A,) rows that may be found, or None for all. The wider search that a filter needs to keep its
                recall is chosen from the share of rows it leaves.

        Returns:
            Q arrays of distinct row numbers, to be scored exactly: k each, more only where scores are nearly equal.
        """
        share = 1.0 if allowed is None else max(float(allowed.mean()), 1e-9)
        selector, bits = None, None
        if allowed is not None:
            bits = np.packbits(allowed, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
        oversample = INVERTED.get(self.manifest.facts["kind"], ("", 1))[1]
        depth = min(k * oversample, len(self.keys))
        found = [row[row >= 0] for row in self._ask(queries, depth, share, selector)]
        if oversample == 1:
            return found
        return [self._nearest(rows, query, k) for rows, query in zip(found, queries, strict=True)]

    def _ask(self, queries: NDArray[np.float32], depth: int, share: float, selector: Any) -> NDArray[np.int64]:
        with threads_for(len(queries)):
            return self.index.search(queries, depth, params=self._parameters(depth, share, selector))[1]

    def _nearest(self, rows: NDArray[np.int64], query: NDArray[np.float32], k: int) -> NDArray[np.int64]:
        """Those of some rows that may be among the k best, by their whole vectors."""
        [best] = candidates(self.vectors[rows], query[None], k, None)
        return rows[best]

    def _parameters(self, k: int, share: float, selector: Any) -> Any:
        if self.manifest.facts["kind"] == "hnsw":
            return _FAISS.SearchParametersHNSW(sel=selector, efSearch=_graph_width(self._width, k, share))
        make = (
            _FAISS.IVFRaBitQSearchParameters if self.manifest.facts["kind"] == "rabitq" else _FAISS.SearchParametersIVF
        )
        return make(sel=selector, nprobe=self._probes(share))

    @property
    def _width(self) -> int:
        return int(self.manifest.facts.get("width", GRAPH_SEARCH_EF))

    def _probes(self, share: float) -> int:
        return min(int(self.index.nlist), math.ceil(INVERTED_PROBES / math.sqrt(share)))


def choose_kind(rows: int, width: int, memory: int | None = None, *, bucket: bool = False) -> tuple[str, str]:
    """Which accelerator suits this many rows of this width (`exact` for none), and the reason.

    Args:
        rows: of the store.
        width: of a searched vector.
        memory: of the machine, in bytes; None to ask it.
        bucket: whether the store is on object storage.
    """
    memory = memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if rows < ACCELERATE_FROM:
        return "exact", f"{rows:,} chunks are searched exactly; an accelerator is built from {ACCELERATE_FROM:,}"
    plain, codes = rows * (4 * width + 8), rows * (width // 2 + 8)
    if bucket or plain > memory * BUILD_SHARE:
        why = "the store is in a bucket" if bucket else f"{_size(plain)} of vectors do not fit in half of the memory"
        own = rows * (width + GRAPH_BYTES)
        kind = "lance-hnsw" if own <= memory * MEMORY_SHARE else "lance-rq"
        return kind, f"{rows:,} chunks: {why}, so Lance's own index is used, of which a search reads what it probes"
    why = f"{rows:,} chunks: their {_size(plain)} of vectors fit in half of the memory"
    return "pq", f"{why}; an inverted file of 4-bit products chooses among them, fastest, and takes {_size(codes)}"


def build(root: Path, snapshot: Snapshot, fingerprint: str, kind: str, why: str) -> Manifest:
    """Build a generation from every row of a snapshot and put it in use; the writer's lock must be held.

    Args:
        root: the accelerator's folder.
        snapshot: whose rows to build from.
        fingerprint: of the encoder that made them.
        kind: one of `KINDS`.
        why: this kind, for whoever asks later.
    """
    vectors = snapshot.vectors(np.arange(len(snapshot)))
    normalize(vectors)
    index = _graph(vectors) if kind == "hnsw" else _inverted(vectors, INVERTED[kind][0])
    measured = graph_width.measured(index, vectors) if kind == "hnsw" else {}

    def write(folder: Path) -> None:
        faiss.write_index(index, str(folder / FAISS_FILE))
        np.save(folder / VECTORS_FILE, vectors)
        np.save(folder / KEYS_FILE, snapshot.keys)
        passages.write(folder, snapshot)

    facts = {"kind": kind, "why": why, "rows": len(snapshot), "version": snapshot.version}
    facts |= {"dimension": snapshot.layout.width, **measured}
    return publish(root, snapshot.version, fingerprint, facts, write)


def load(root: Path, fingerprint: str, dimension: int) -> Accelerator | None:
    """The generation in use, or None where none was built.

    Raises:
        UnusableGeneration: it is damaged or not of this store; nothing of it was handed to faiss.
    """
    manifest = read_manifest(root)
    if manifest is None:
        return None
    paths = verified(root, manifest, fingerprint, trust_stamps=True)
    try:
        check_facts(manifest.facts)
        vectors = np.asarray(np.load(paths[VECTORS_FILE], mmap_mode="r"))
        keys = np.load(paths[KEYS_FILE])
        index = faiss.read_index(str(paths[FAISS_FILE]))
        shown = None
        if passages.LINES_FILE in paths:
            shown = passages.load(paths[passages.LINES_FILE], paths[passages.PLACES_FILE])
    except (KeyError, OSError, TypeError, ValueError, RuntimeError) as error:
        raise UnusableGeneration(f"it cannot be loaded ({' '.join(str(error).split())[:120]})") from error
    if vectors.shape != (len(keys), dimension) or index.ntotal != len(keys) or index.d != dimension:
        raise UnusableGeneration("its files do not belong together")
    if shown is not None and len(shown.places) != len(keys):
        raise UnusableGeneration("its files do not belong together")
    return Accelerator(manifest, index, vectors, keys, shown)


def check_facts(facts: Mapping[str, Any]) -> None:
    """Raise KeyError, TypeError or ValueError where a manifest does not say what a search needs to know."""
    if facts["kind"] not in KINDS or int(facts.get("width", GRAPH_SEARCH_EF)) < 1:
        raise ValueError("its manifest was edited")


def _graph_width(width: int, k: int, share: float) -> int:
    """The efSearch of faiss: a graph walk that keeps only a share of what it meets must meet that much more."""
    return math.ceil(max(width, 2 * k) / share)


def _graph(vectors: NDArray[np.float32]) -> Any:
    index = faiss.IndexHNSWFlat(vectors.shape[1], GRAPH_LINKS, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = GRAPH_BUILD_EF
    index.add(vectors)
    return index


def _inverted(vectors: NDArray[np.float32], code: str) -> Any:
    rows, width = vectors.shape
    lists = max(1, min(rows // 39, round(4 * math.sqrt(rows))))
    # Fast scan takes pairs of products; a width that gives no pairs of two dimensions gets a product for each.
    products = width // 2 if width % 4 == 0 else width
    index = _FAISS.index_factory(width, f"IVF{lists},{code.format(products)}", faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = TRAIN_ROUNDS, TRAIN_ROWS_PER_LIST
    index.train(vectors)
    index.add(vectors)
    return index


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
