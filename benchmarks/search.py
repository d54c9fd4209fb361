"""Search engines side by side on the same vectors: `python benchmarks/search.py --data DIR --rows 100000`.

Dense: what Decant builds for so many vectors, and the graphs of faiss, hnswlib and usearch, all with the same links and
build width; sparse (`--sparse-model`, a model with a sparse head): Decant's postings and its segments, plain Seismic, a
scipy CSR product; bm25s, whose queries cannot weigh their terms, is given the same rows beside the postings, and terms
that weigh one. Vectors are `search_data`'s: those of real texts and questions, extended by mixtures. Every engine tries
its settings from cheap to dear and reports, of the first that reaches recall@10 of 0.95 and of 0.99 against the exact
result, queries a second on one thread and on two and microseconds of processor time a query, which a busy machine
changes least. `decant-with-texts` also looks for a newer commit and reads the ten best passages. Indexes are kept under
`--folder`, and a line of the output is written as soon as it is measured, so a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import search_data

K, MARKS, THREADS = 10, (0.95, 0.99), (1, 2)
WIDTHS = (16, 32, 64, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072)
PROBES = (8, 16, 32, 64, 96, 128, 192, 256, 384, 512, 768)
# Lists that are read, and candidates for each result that are scored exactly; what Decant takes are 128 and 40.
PRODUCTS = ((16, 20), (32, 20), (64, 20), (64, 40), (96, 40), (128, 40), (192, 80), (256, 80), (512, 80), (768, 160))
# Seismic's: terms of a query that are followed, and how much of the k-th score a block must promise.
CUTS = ((3, 0.9), (5, 0.9), (8, 0.9), (10, 0.9), (10, 0.8), (15, 0.8), (20, 0.8), (20, 0.7), (40, 0.7), (60, 0.6))
LINKS, BUILD_WIDTH = 32, 100
_FAISS: Any = faiss


@dataclass(frozen=True)
class Engine:
    """One engine with its index: `search(query, setting)` gives the K best rows; it takes `bytes` on disk."""

    search: Callable[[Any, Any], Iterable[int]]
    settings: Sequence[Any]
    bytes: int


def main() -> None:
    """Measure what is not in the output yet."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with text/ and pairs/")
    parser.add_argument("--folder", type=Path, default=Path("runs/search"), help="vectors, indexes and results")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--passages", type=int, default=12_000, help="real texts to encode")
    parser.add_argument("--sparse-model", help="a model with a sparse head: Decant's or a SparseEncoder")
    parser.add_argument("--engines", help="only these, with commas between; default: all")
    options = parser.parse_args()
    faiss.omp_set_num_threads(1)
    files = search_data.encoded(options.data, options.folder, options.passages, 2000, options.sparse_model)
    out = options.folder / f"results-{options.rows}.jsonl"
    done = [json.loads(line)["engine"] for line in out.read_text().splitlines()] if out.exists() else []
    indexes = options.folder / f"indexes-{options.rows}"
    indexes.mkdir(exist_ok=True)

    def measure(engines: dict[str, Any], rows: Any, asked: list[Any], truth: list[set[int]]) -> None:
        for name, build in engines.items():
            if name in done or name not in wanted:
                continue
            engine = None  # its memory is wanted by the next
            began = time.process_time()
            engine = build(rows, indexes)
            row = {"engine": name, "rows": rows.shape[0], "build_cpu_s": round(time.process_time() - began, 1)}
            row |= {"mib": round(engine.bytes / 2**20)} | marks(engine, asked, truth)
            with out.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)

    wanted = options.engines.split(",") if options.engines else [*DENSE, *SPARSE, *UNWEIGHTED]
    if {*wanted} & set(DENSE) - set(done):
        rows, queries = search_data.dense(files["dense"], options.rows, options.queries)
        flat: Any = faiss.IndexFlatIP(rows.shape[1])
        flat.add(rows)
        truth = [set(found.tolist()) for found in flat.search(queries, K)[1]]
        del flat
        measure(DENSE, rows, list(queries[:, None]), truth)
    if "sparse" in files and {*wanted} & {*SPARSE, *UNWEIGHTED} - set(done):
        sparse, questions = search_data.sparse(files["sparse"], files["dense"], options.rows, options.queries)
        asked = [questions[[i]] for i in range(questions.shape[0])]
        exact = csr_product(sparse, indexes)
        measure(SPARSE, sparse, asked, [set(exact.search(query, None)) for query in asked])
        for query in asked:
            query.data[:] = 1
        measure(UNWEIGHTED, sparse, asked, [set(exact.search(query, None)) for query in asked])


def marks(engine: Engine, asked: list[Any], truth: list[set[int]]) -> dict[str, Any]:
    """What the cheapest setting that reaches each mark costs."""
    found: dict[str, Any] = {}
    for setting in engine.settings:
        recall = np.mean([len({*engine.search(q, setting)} & best) / K for q, best in zip(asked, truth, strict=True)])
        for mark in MARKS:
            if recall >= mark and f"setting@{mark}" not in found:
                found |= {f"setting@{mark}": setting, f"recall@{mark}": round(float(recall), 4)}
                found |= {f"{name}@{mark}": value for name, value in speed(engine, asked, setting).items()}
        if f"setting@{MARKS[-1]}" in found:
            break
    return found


def speed(engine: Engine, asked: list[Any], setting: Any) -> dict[str, float]:
    """Queries a second by the number of threads, processor time of one, the slowest of a hundred in milliseconds."""

    def timed(query: Any) -> float:
        began = time.perf_counter()
        engine.search(query, setting)
        return time.perf_counter() - began

    values: dict[str, float] = {}
    for threads in THREADS:
        with ThreadPoolExecutor(threads) as pool:
            best = min(_seconds(pool, timed, asked) for _ in range(3))
        values[f"qps{threads}"] = round(len(asked) / best)
    began = time.process_time()
    for query in asked:
        engine.search(query, setting)
    values["cpu_us"] = round((time.process_time() - began) / len(asked) * 1e6)
    values["p99_ms"] = round(float(np.percentile([timed(query) for query in asked], 99)) * 1e3, 3)
    return values


def _seconds(pool: ThreadPoolExecutor, timed: Callable[[Any], float], asked: list[Any]) -> float:
    began = time.perf_counter()
    list(pool.map(timed, asked))
    return time.perf_counter() - began


def _keep(file: Path, save: Callable[[str], Any]) -> None:
    """Save an index so that one that was cut off is not taken for a whole one by the next run."""
    scratch = file.with_suffix(".new")
    save(str(scratch))
    scratch.rename(file)


def faiss_graph(rows: Any, folder: Path) -> Engine:
    """Plain faiss."""
    file = folder / "faiss"
    if not file.exists():
        made: Any = faiss.IndexHNSWFlat(rows.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        made.hnsw.efConstruction = BUILD_WIDTH
        made.add(rows)
        _keep(file, lambda name: faiss.write_index(made, name))
        del made
    index: Any = faiss.read_index(str(file))

    def search(query: Any, width: int) -> list[int]:
        return index.search(query, K, params=_FAISS.SearchParametersHNSW(efSearch=width))[1][0].tolist()

    return Engine(search, WIDTHS, file.stat().st_size)


def hnswlib_graph(rows: Any, folder: Path) -> Engine:
    """Plain hnswlib."""
    import hnswlib

    file = folder / "hnswlib"
    index = hnswlib.Index("ip", rows.shape[1])
    if file.exists():
        index.load_index(str(file))
    else:
        index.init_index(len(rows), M=LINKS, ef_construction=BUILD_WIDTH)
        index.add_items(rows, num_threads=1)
        _keep(file, index.save_index)

    def search(query: Any, width: int) -> list[int]:
        index.set_ef(width)
        return index.knn_query(query, K, num_threads=1)[0][0].tolist()

    return Engine(search, WIDTHS, file.stat().st_size)


def usearch_graph(rows: Any, folder: Path) -> Engine:
    """Plain usearch."""
    from usearch.index import Index

    file = folder / "usearch"
    index = Index(ndim=rows.shape[1], metric="ip", dtype="f32", connectivity=LINKS, expansion_add=BUILD_WIDTH)
    if file.exists():
        index.load(str(file))
    else:
        index.add(np.arange(len(rows)), rows, threads=1)
        _keep(file, index.save)

    def search(query: Any, width: int) -> list[int]:
        index.expansion_search = width
        return index.search(query[0], K, threads=1).keys.tolist()

    return Engine(search, WIDTHS, file.stat().st_size)


def decant(rows: Any, folder: Path) -> Engine:
    """Decant's view of a snapshot: candidates, tombstones, exact scores and ties, without the texts."""
    return _decant(rows, folder, "pq", texts=False)


def decant_with_texts(rows: Any, folder: Path) -> Engine:
    """The same through `Searcher.search_vectors`, which looks for a newer version and reads the ten best passages."""
    return _decant(rows, folder, "pq", texts=True)


def decant_lance(kind: str) -> Callable[[Any, Path], Engine]:
    """The table's own index, as for a store that does not fit in memory."""
    return lambda rows, folder: _decant(rows, folder, kind, texts=False)


def _decant(rows: Any, folder: Path, kind: str, *, texts: bool) -> Engine:
    from decant.index import Searcher, Store, accelerator, lance_ann
    from decant.index.info import place_bytes
    from decant.index.testing import HashEncoder
    from decant.index.topk import normalized

    encoder = HashEncoder(rows.shape[1])
    store = Store.open(folder / "store", encoder=encoder, create=True)
    if len(store.snapshot()) < len(rows):
        _fill(store, rows)
    if store.info()["dense"]["search"] != kind:
        store.build_accelerator(kind)
    searcher, snapshot = Searcher(store, encoder), store.snapshot()
    ids = np.array(snapshot.scan(["doc_id"]).sort_by("_rowid")["doc_id"].to_pylist(), np.int64)
    view = searcher.view(snapshot)

    def search(query: Any, setting: Any) -> list[int]:
        if kind == "pq":
            accelerator.INVERTED_PROBES, oversample = setting
            accelerator.INVERTED["pq"] = (accelerator.INVERTED["pq"][0], oversample)
        else:
            lance_ann.PROBES = setting
        if texts:
            [hits] = searcher.search_vectors(query, k=K)
            return [int(hit.chunk.doc_id) for hit in hits]
        [found] = view.search(normalized(query), K)
        return ids[found.positions].tolist()

    held = (
        place_bytes(store.place)
        if kind.startswith("lance")
        else sum(f.stat().st_size for f in store.dense_folder.rglob("*.*"))
    )
    return Engine(search, PRODUCTS if kind == "pq" else PROBES, held)


def _fill(store: Any, rows: Any) -> None:
    from decant.index.documents import Chunk, Document
    from decant.index.schema import IndexedDocument

    text = (
        "A passage of the store, about as long as passages are, so that reading ten of them costs what it costs. " * 5
    )
    with store.writer():
        for start in range(len(store.snapshot()), len(rows), 10_000):
            batch: list[Any] = []
            for i, vector in enumerate(rows[start : start + 10_000, None], start):
                chunk = Chunk(f"{i}", 0, 0, len(text), text)
                batch.append(IndexedDocument(Document(f"{i}", text), "h", [chunk], vector))
            store.replace(batch)
        store.optimize()


def csr_product(rows: Any, folder: Path) -> Engine:
    """A scipy product of all rows with the query."""

    def search(query: Any, setting: Any) -> list[int]:
        dense = np.zeros(rows.shape[1], np.float32)
        dense[query.indices] = query.data
        return np.argpartition(-(rows @ dense), K)[:K].tolist()

    return Engine(search, (None,), rows.data.nbytes + rows.indices.nbytes)


def postings(rows: Any, folder: Path) -> Engine:
    """Decant's exact postings."""
    from decant.index.postings import Postings

    block = Postings.of(np.arange(rows.shape[0]), rows)

    def search(query: Any, setting: Any) -> list[int]:
        return _best(*block.search(query.indices, query.data, K, None))

    return Engine(search, (None,), block.members.nbytes + block.weights.nbytes)


def bm25s_product(rows: Any, folder: Path) -> Engine:
    """bm25s, given the rows as if it had scored them."""
    import bm25s

    made: Any = bm25s.BM25()
    made.nonoccurrence_array = None  # set by its own indexing, which is passed over
    columns = rows.tocsc()
    made.scores = {
        "data": columns.data,
        "indices": columns.indices.astype(np.int32),
        "indptr": columns.indptr.astype(np.int64),
        "num_docs": rows.shape[0],
    }

    def search(query: Any, setting: Any) -> list[int]:
        scores = made.get_scores_from_ids(query.indices.astype(np.int32).tolist())
        return np.argpartition(-scores, K)[:K].tolist()

    return Engine(search, (None,), rows.data.nbytes + rows.indices.nbytes)


def seismic_plain(rows: Any, folder: Path) -> Engine:
    """Plain Seismic."""
    segment, size = _segment(rows, folder)

    def search(query: Any, setting: tuple[int, float]) -> list[int]:
        found = segment.index.search(query.indices.astype(np.int32), query.data, K, *setting, 0, True)
        return [row for _, row in found]

    return Engine(search, CUTS, size)


def segment_of_decant(rows: Any, folder: Path) -> Engine:
    """Decant's sealed segment."""
    from decant.index import seismic

    segment, size = _segment(rows, folder)

    def search(query: Any, setting: tuple[int, float]) -> list[int]:
        seismic.QUERY_CUT, seismic.HEAP_FACTOR = setting
        return _best(*segment.search(query.indices.astype(np.int32), query.data, K, None))

    return Engine(search, CUTS, size)


def _segment(rows: Any, folder: Path) -> tuple[Any, int]:
    from decant.index import seismic

    files = folder / "seismic"
    if not files.exists():
        scratch = folder / "seismic.new"
        scratch.mkdir(exist_ok=True)
        seismic.write_segment(scratch, 0, np.arange(rows.shape[0]), rows, rows.shape[1])
        scratch.rename(files)
    paths = {file.name: file for file in files.iterdir()}
    segment = seismic.load_segment(paths, 0, rows.shape[1], halves=seismic.are_halves(rows))
    return segment, sum(file.stat().st_size for file in files.iterdir())


def _best(found: Any, scores: Any) -> list[int]:
    """The K best of some candidates."""
    return found[np.argsort(-scores, kind="stable")[:K]].tolist()


DENSE = {
    "faiss-hnsw": faiss_graph,
    "hnswlib": hnswlib_graph,
    "usearch": usearch_graph,
    "decant": decant,
    "decant-with-texts": decant_with_texts,
    "decant lance-hnsw": decant_lance("lance-hnsw"),
    "decant lance-rq": decant_lance("lance-rq"),
}
SPARSE = {
    "scipy-csr": csr_product,
    "decant postings": postings,
    "seismic": seismic_plain,
    "decant segment": segment_of_decant,
}
UNWEIGHTED = {"bm25s": bm25s_product, "decant postings, unweighted": postings}

if __name__ == "__main__":
    main()
