"""What a large corpus would cost: `python benchmarks/scale.py --data DIR --results runs/search/results-100000.jsonl`.

Measures here, on one core, what a passage costs (encoding, storing, bytes), takes the builds from the search
benchmark's output, and plays a run of `decant index --engine ray` through: shards of 16 MB handed to workers whose
speed varies and who die now and then, then what one process does alone. Prints Markdown tables; docs/scale.md holds one
run of it. Beyond the sizes that were measured everything is extrapolated: encoding and bytes in proportion, graph
builds with the logarithm of the rows besides.
"""

from __future__ import annotations

import argparse
import heapq
import json
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import search_data

MILLION = 10**6


@dataclass(frozen=True)
class Passage:
    """What one passage costs on one core; seconds are of processor time."""

    tokens: float
    encode_s: float
    store_s: float
    tidy_s: float
    text_bytes: float
    stored_bytes: float


def main() -> None:
    """Measure, extrapolate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with text/ and pairs/")
    parser.add_argument("--results", type=Path, required=True, help="output of benchmarks/search.py")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--mtbf-hours", type=float, default=100, help="between two deaths of one worker")
    options = parser.parse_args()
    one = measured(options.data, options.passages)
    print(
        f"{one.tokens:.0f} tokens and {one.text_bytes:.0f} bytes of text a passage; {one.tokens / one.encode_s:,.0f} "
        f"tokens/s encoding, {1 / one.store_s:,.0f} passages/s storing, {1 / one.tidy_s:,.0f} passages/s tidying up, "
        f"{one.stored_bytes:,.0f} bytes a passage in the store\n"
    )
    print("| | a passage | a million | a billion |\n|---|---|---|---|")
    print(_row("core-hours of encoding", one.encode_s / 3600))
    print(_row("GB in the store", one.stored_bytes / 1e9))
    for line in options.results.read_text().splitlines():
        engine = json.loads(line)
        if engine["engine"] in ("decant", "decant lance-rq", "decant lance-hnsw", "decant segment"):
            print(_row(f"GB, {engine['engine']}", engine["mib"] * 2**20 / engine["rows"] / 1e9))
            print(_row(f"core-hours of building, {engine['engine']}", engine["build_cpu_s"] / engine["rows"] / 3600))
    print("\n| passages | workers | hours | of these the last, alone | died | done again |\n|---|---|---|---|---|---|")
    for passages, crews in ((MILLION, (2, 16)), (1000 * MILLION, (64, 512, 4096))):
        for workers in crews:
            print(played(one, passages, workers, options.mtbf_hours * 3600))


def measured(data: Path, count: int) -> Passage:
    """One passage's costs, from indexing some with the model that ships."""
    from decant.embedder import Encoder
    from decant.index import Store
    from decant.index.batches import index_documents
    from decant.index.documents import Document
    from decant.index.info import place_bytes

    encoder = Encoder.load()
    texts = search_data.real_texts(data, count)
    encoder.encode(texts[:64])
    began = time.process_time()
    made = encoder.encode(texts)
    encode_s = time.process_time() - began
    documents = [Document(f"d{i}", text) for i, text in enumerate(texts)]
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "s", encoder=encoder, create=True) as store:
        began = time.process_time()
        with store.writer():
            index_documents(store, encoder, documents)
            indexed = time.process_time() - began
            store.optimize()
            tidied = time.process_time() - began - indexed
        chunks = len(store.snapshot())
        size = place_bytes(store.place)
    tokens = float(made.tokens.sum())
    return Passage(
        tokens / count,
        encode_s / count,
        max(indexed - encode_s, 0.01 * indexed) / chunks,
        tidied / chunks,
        sum(len(text.encode()) for text in texts) / count,
        size / chunks,
    )


def played(one: Passage, passages: int, workers: int, mtbf: float) -> str:
    """One run, event by event: the next shard goes to whoever is free first; a death costs what its shard had done."""
    from decant.index.cluster.shards import SHARD_BYTES, SHARDS_PER_WORKER

    rng = np.random.default_rng(0)
    shards = max(round(passages * one.text_bytes / SHARD_BYTES), SHARDS_PER_WORKER * workers)
    seconds = passages / shards * (one.encode_s + one.store_s)
    free = [0.0] * workers
    pace = rng.lognormal(0, 0.1, workers)  # machines are not equally fast
    crew = [(at, number) for number, at in enumerate(free)]
    died, again, end = 0, 0.0, 0.0
    for _ in range(shards):
        at, number = heapq.heappop(crew)
        needed = seconds * pace[number] * rng.lognormal(0, 0.05)
        while (life := rng.exponential(mtbf)) < needed:
            died, again, at = died + 1, again + life, at + life + 60  # a minute until it is up again
        heapq.heappush(crew, (at + needed, number))
        end = max(end, at + needed)
    alone = passages * one.tidy_s
    share = again / (shards * seconds)
    return f"| {passages:,} | {workers:,} | {(end + alone) / 3600:,.1f} | {alone / 3600:,.1f} | {died} | {share:.2%} |"


def _row(name: str, value: float) -> str:
    return f"| {name} | {value:.2e} | {value * MILLION:,.2f} | {value * 1000 * MILLION:,.0f} |"


if __name__ == "__main__":
    main()
