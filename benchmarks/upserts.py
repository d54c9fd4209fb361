"""Upserts with a reader beside them: `python benchmarks/upserts.py --upserts 10000`.

A process writes documents one commit at a time into a store of `--rows` passages; another searches at a fixed rate and
once a second asks for a document that was committed just before, which it must find. Requests are timed from the moment
they were due, so a reader that falls behind is seen to. Prints one JSON line: the quiet reader's latency, the latency
beside the writer, what a search costs in processor time, and what went wrong.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

DIMENSION = 384


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--upserts", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=50, help="searches a second")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory(prefix="decant-upserts-") as folder:
        _fill(Path(folder), options.rows)
        committed = context.Value("q", -1)
        end = time.monotonic() + 30
        quiet = _read(Path(folder), options.rate, committed, lambda: time.monotonic() < end)
        writer = context.Process(target=_write, args=(folder, options.rows, options.upserts, committed))
        began = time.perf_counter()
        writer.start()
        beside = _read(Path(folder), options.rate, committed, writer.is_alive)
        writer.join()
        seconds = time.perf_counter() - began
    row = {"rows": options.rows, "upserts": committed.value + 1, "seconds": round(seconds, 1), "exit": writer.exitcode}
    print(json.dumps(row | {"quiet": quiet, "beside": beside}))


def _open(folder: Path, **options: Any) -> Any:
    from decant.index import Store
    from decant.index.testing import HashEncoder

    encoder = HashEncoder(DIMENSION)
    return Store.open(folder / "store", encoder=encoder, **options), encoder


def _document(name: str, vector: Any) -> Any:
    from decant.index import Chunk, Document, IndexedDocument

    text = f"{name} and what else a passage says"
    return IndexedDocument(Document(name, text), "h", [Chunk(name, 0, 0, len(text), text)], vector[None])


def _vector(seed: int) -> Any:
    vector = np.random.default_rng(seed).standard_normal(DIMENSION).astype(np.float32)
    return vector / np.linalg.norm(vector)


def _fill(folder: Path, rows: int) -> None:
    store, _ = _open(folder, create=True)
    with store.writer():
        for start in range(0, rows, 5000):
            numbers = range(start, min(rows, start + 5000))
            store.replace([_document(f"old{i}", _vector(i)) for i in numbers])
        store.optimize()


def _write(folder: str, rows: int, count: int, committed: Any) -> None:
    """Every second upsert replaces a document of before, the others are new."""
    store, _ = _open(Path(folder))
    with store.writer():
        for number in range(count):
            name = f"old{number}" if number % 2 and number < rows else f"new{number}"
            store.replace([_document(name, _vector(10_000_000 + number))])
            committed.value = number


def _read(folder: Path, rate: float, committed: Any, going: Any) -> dict[str, Any]:
    from decant.index import Searcher

    store, encoder = _open(folder, read_only=True)
    searcher = Searcher(store, encoder)
    searcher.search_vectors(_vector(0)[None], k=10)
    seconds: list[float] = []
    stale = errors = 0
    began, worked = time.perf_counter(), time.process_time()
    while going():
        due = began + len(seconds) / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        last = committed.value
        fresh = last >= 0 and len(seconds) % int(rate) == 0
        try:
            vector = _vector(10_000_000 + last if fresh else len(seconds))
            [hits] = searcher.search_vectors(vector[None], k=10)
            stale += fresh and hits[0].score < 0.999
        except Exception as error:  # what it is does not matter: there must be none
            print(json.dumps({"error": repr(error)[:200]}), flush=True)
            errors += 1
        seconds.append(time.perf_counter() - due)
    p50, p99 = np.percentile(np.array(seconds) * 1e3, [50, 99])
    return {
        "searches": len(seconds),
        "cpu_ms": round((time.process_time() - worked) / len(seconds) * 1e3, 2),
        "p50_ms": round(p50, 2),
        "p99_ms": round(p99, 2),
        "stale": stale,
        "errors": errors,
    }


if __name__ == "__main__":
    main()
