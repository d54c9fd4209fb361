"""Search accelerators side by side on one thread: `python benchmarks/search.py --rows 100000 --out runs/search.jsonl`.

Dense: Decant's store and searcher, plain faiss, hnswlib and usearch over the same unit vectors; sparse: Decant, plain
Seismic, scipy CSR. Vectors are those of real texts (`--texts`, a file with one passage a line, encoded with
decant-mini) extended by mixtures: each further row is a real one moved towards a second, with the noise that real
neighbours show. Every engine reports the queries a second of the cheapest setting that reaches recall@10 of 0.95 and
0.99 against the exact result. A row of the output is written as soon as it is measured and is not measured again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

Search = Callable[[NDArray[np.float32], int], NDArray[np.int64]]
K, MARKS = 10, (0.95, 0.99)
WIDTHS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512)


def main() -> None:
    """Measure what is not in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=500)
    parser.add_argument("--texts", type=Path, required=True, help="a passage a line")
    parser.add_argument("--real", type=int, default=4000, help="passages to encode")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    done = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    known = {(row["engine"], row["rows"]) for row in done}
    rows, queries = vectors(options.texts, options.real, options.rows, options.queries)
    truth = exact(rows, queries)
    for name, build in ENGINES.items():
        if (name, options.rows) in known:
            continue
        began = time.perf_counter()
        search = build(rows)
        row = {"engine": name, "rows": len(rows), "build_s": round(time.perf_counter() - began, 1)}
        row |= marks(search, queries, truth)
        with options.out.open("a", encoding="utf-8") as out:
            out.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)  # noqa: T201


def vectors(texts: Path, real: int, count: int, asked: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Real vectors extended by mixtures, (count, D), and queries drawn the same way, (asked, D); unit rows."""
    from decant.embedder import Encoder

    kept = texts.with_suffix(f".{real}.npy")
    if not kept.exists():
        lines = texts.read_text(encoding="utf-8").splitlines()[:real]
        made = Encoder.load().encode(lines).dense
        assert made is not None
        np.save(kept, made)
    seeds = np.load(kept)
    rng = np.random.default_rng(0)
    total = count + asked
    one, two = rng.integers(0, len(seeds), (2, total))
    share = rng.uniform(0, 0.5, (total, 1)).astype(np.float32)
    noise = rng.standard_normal((total, seeds.shape[1]), np.float32) * (0.4 / np.sqrt(seeds.shape[1]))
    mixed = (1 - share) * seeds[one] + share * seeds[two] + noise
    mixed[: min(len(seeds), count)] = seeds[:count]
    mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
    return np.ascontiguousarray(mixed[:count]), np.ascontiguousarray(mixed[count:])


def exact(rows: NDArray[np.float32], queries: NDArray[np.float32]) -> NDArray[np.int64]:
    """(Q, K) best rows."""
    flat: Any = faiss.IndexFlatIP(rows.shape[1])
    flat.add(rows)
    return flat.search(queries, K)[1]


def marks(search: Search, queries: NDArray[np.float32], truth: NDArray[np.int64]) -> dict[str, Any]:
    """Queries a second, and p99 in milliseconds, of the cheapest width that reaches each mark."""
    found: dict[str, Any] = {}
    for width in WIDTHS:
        seconds: list[float] = []
        hits = 0
        for query, best in zip(queries, truth, strict=True):
            began = time.perf_counter()
            got = search(query[None], width)
            seconds.append(time.perf_counter() - began)
            hits += len(set(got.tolist()) & set(best.tolist()))
        recall = hits / truth.size
        for mark in MARKS:
            if recall >= mark and f"qps@{mark}" not in found:
                found[f"qps@{mark}"] = round(len(seconds) / sum(seconds))
                found[f"p99_ms@{mark}"] = round(float(np.percentile(seconds, 99)) * 1e3, 3)
                found[f"width@{mark}"], found[f"recall@{mark}"] = width, round(recall, 4)
        if f"qps@{MARKS[-1]}" in found:
            break
    return found


def faiss_hnsw(rows: NDArray[np.float32]) -> Search:
    """Plain faiss, built as Decant builds its graph."""
    index: Any = faiss.IndexHNSWFlat(rows.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 100
    index.add(rows)
    kind: Any = getattr(faiss, "SearchParametersHNSW")  # noqa: B009  # faiss describes only part of itself
    return lambda query, width: index.search(query, K, params=kind(efSearch=width))[1][0]


def hnswlib_graph(rows: NDArray[np.float32]) -> Search:
    """Plain hnswlib with the same links and build width."""
    import hnswlib

    index = hnswlib.Index("ip", rows.shape[1])
    index.init_index(len(rows), M=32, ef_construction=100)
    index.set_num_threads(1)
    index.add_items(rows, num_threads=1)

    def search(query: NDArray[np.float32], width: int) -> NDArray[np.int64]:
        index.set_ef(max(width, K))
        return index.knn_query(query, K, num_threads=1)[0][0].astype(np.int64)

    return search


def usearch_graph(rows: NDArray[np.float32]) -> Search:
    """Plain usearch with the same links and build width."""
    from usearch.index import Index

    index = Index(ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=32, expansion_add=100)
    index.add(np.arange(len(rows)), rows, threads=1)

    def search(query: NDArray[np.float32], width: int) -> NDArray[np.int64]:
        index.expansion_search = width
        return np.asarray(index.search(query[0], K, threads=1).keys, np.int64)

    return search


def decant(rows: NDArray[np.float32]) -> Search:
    """Decant's own view: accelerator, tombstones, exact rescoring and ties, without the texts."""
    return next(_decant(rows, texts=False))


def decant_with_texts(rows: NDArray[np.float32]) -> Search:
    """The same through `Searcher.search_vectors`, which also reads the ten best texts from the store."""
    return next(_decant(rows, texts=True))


def _decant(rows: NDArray[np.float32], *, texts: bool) -> Iterator[Search]:
    import tempfile

    from decant.index import Searcher, Store, accelerator
    from decant.index.documents import Chunk, Document
    from decant.index.schema import IndexedDocument
    from decant.index.testing import HashEncoder
    from decant.index.topk import normalized

    encoder = HashEncoder(rows.shape[1])
    folder = tempfile.TemporaryDirectory(prefix="decant-bench-")
    store = Store.open(Path(folder.name) / "s", encoder=encoder, create=True)
    with store.writer():
        for start in range(0, len(rows), 10_000):
            batch = [
                IndexedDocument(
                    Document(f"{i}", f"row {i}"), "h", [Chunk(f"{i}", 0, 0, len(f"row {i}"), f"row {i}")], v
                )
                for i, v in enumerate(rows[start : start + 10_000, None], start)
            ]
            store.replace(batch)
        store.build_accelerator("hnsw")
    searcher = Searcher(store, encoder)
    ids = np.array(store.snapshot().take(np.arange(len(rows)), ["doc_id"])["doc_id"].to_pylist(), np.int64)

    def search(query: NDArray[np.float32], width: int) -> NDArray[np.int64]:
        accelerator.GRAPH_SEARCH_EF = width
        if texts:
            [hits] = searcher.search_vectors(query, k=K)
            return np.array([int(hit.chunk.doc_id) for hit in hits])
        [found] = searcher.view(store.snapshot()).search(normalized(query), K)
        return ids[found.positions]

    search.folder = folder  # type: ignore[attr-defined]  # kept as long as the search
    yield search


ENGINES: dict[str, Callable[[NDArray[np.float32]], Search]] = {
    "faiss-hnsw": faiss_hnsw,
    "hnswlib": hnswlib_graph,
    "usearch": usearch_graph,
    "decant": decant,
    "decant-with-texts": decant_with_texts,
}

if __name__ == "__main__":
    main()
