"""Exact postings, sealed segments and scipy CSR on the same sparse vectors: `python benchmarks/search_sparse.py`.

Vectors are synthetic: terms by a power law, a third of them from one of 200 topics, 100 terms a document and 40 a
query, which is the shape of SPLADE's. One thread; recall@10 is against the exact result.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from decant.index import seismic
from decant.index.postings import Postings

K = 10


def main() -> None:
    """Measure one size and print one JSON line per engine."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--terms", type=int, default=30_000)
    options = parser.parse_args()
    documents = vectors(options.rows, 100, options.terms, seed=1)
    queries = vectors(options.queries, 40, options.terms, seed=2)
    asked = [(queries.indices[b:e], queries.data[b:e]) for b, e in pairwise(queries.indptr)]
    keys = np.arange(options.rows)
    began = time.perf_counter()
    postings = Postings.of(keys, documents)
    built = time.perf_counter() - began
    truth = [best(documents, postings.candidates(t, w, K, None), t, w) for t, w in asked]
    report("postings", built, asked, truth, lambda t, w: best(documents, postings.candidates(t, w, K, None), t, w))

    def csr(terms: Any, weights: Any) -> set[int]:
        query = np.zeros(options.terms, np.float32)
        query[terms] = weights
        return set(np.argpartition(-(documents @ query), K)[:K].tolist())

    report("scipy-csr", 0.0, asked, truth, csr)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        seismic.write_segment(Path(folder), 0, keys, documents, options.terms)
        built = time.perf_counter() - began
        segment = seismic.load_segment({file.name: file for file in Path(folder).iterdir()}, 0, options.terms)
        for cut, heap in ((5, 0.9), (10, 0.9), (10, 0.8), (seismic.QUERY_CUT, seismic.HEAP_FACTOR)):

            def plain(terms: Any, weights: Any, cut: int = cut, heap: float = heap) -> set[int]:
                return {row for _, row in segment.index.search(terms, weights, K, cut, heap, 0, True)}

            report(f"seismic cut {cut} heap {heap}", built, asked, truth, plain)
        report(
            "decant segment",
            built,
            asked,
            truth,
            lambda t, w: best(documents, segment.candidates(t, w, K, None, exact=False), t, w),
        )


def best(documents: csr_array, rows: Any, terms: Any, weights: Any) -> set[int]:
    """The K best of some candidates, scored as the store scores them."""
    from decant.index.postings import exact_scores

    scores = exact_scores(documents, documents.shape[1], rows, terms, weights)
    return set(rows[np.argsort(-scores, kind="stable")[:K]].tolist())


def vectors(count: int, length: int, terms: int, seed: int) -> csr_array:
    """Rows of about `length` terms."""
    rng = np.random.default_rng(seed)
    share = 1 / np.arange(1, terms + 1) ** 0.8
    ladder = np.cumsum(share / share.sum())
    topics = np.random.default_rng(0).permuted(np.tile(np.arange(terms), (200, 1)), axis=1)
    common = np.searchsorted(ladder, rng.random((count, length * 2 // 3))).clip(0, terms - 1)
    own = np.searchsorted(ladder, rng.random((count, length // 3))).clip(0, terms - 1)
    own = topics[rng.integers(0, 200, count)[:, None], own]
    indices = np.hstack([common, own])
    weights = rng.gamma(2.0, 0.5, indices.size).astype(np.float32)
    made = csr_array((weights, indices.ravel(), np.arange(0, indices.size + 1, indices.shape[1])), shape=(count, terms))
    made.sum_duplicates()
    return csr_array((made.data, made.indices.astype(np.int32), made.indptr), shape=made.shape)


def report(name: str, built: float, asked: Any, truth: Any, search: Any) -> None:
    """Print queries a second and recall."""
    began = time.perf_counter()
    found = [search(terms, weights) for terms, weights in asked]
    seconds = (time.perf_counter() - began) / len(asked)
    recall = float(np.mean([len(a & b) / K for a, b in zip(found, truth, strict=True)]))
    row = {"engine": name, "build_s": round(built, 1), "ms": round(seconds * 1e3, 3), "recall": round(recall, 4)}
    print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
