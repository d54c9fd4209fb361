"""How many texts a second are indexed, beside all-MiniLM-L6-v2 encoding the same texts under sentence-transformers.

    python benchmarks/index_speed.py [--texts 400] [--rounds 3] [--model FOLDER]

`decant index` reads, cuts, encodes (its default number format) and commits to a new store with a full-text index;
the peer only encodes, in float32, batches of 32, cut at its own 256 tokens. The texts are passages of a collection,
whole; both take turns. Rates are by processor time beside those by the clock, for a machine is rarely idle.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from quality import minilm
from sentence_transformers import SentenceTransformer

from decant.embedder import Encoder
from decant.index.batches import index_documents
from decant.index.beir import load_collection
from decant.index.documents import Document
from decant.index.store import Store

DATA = Path(os.environ.get("DECANT_DATA", "../shared/data"))


def index(encoder: Encoder, documents: list[Document]) -> None:
    """Index documents into a store that is thrown away."""
    with tempfile.TemporaryDirectory() as scratch:
        with Store.open(Path(scratch) / "store", encoder=encoder, create=True) as store:
            index_documents(store, encoder, documents)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds by the clock and of this process's threads."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> int:
    """Measure in turns and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--collection", default="squad-dev")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    documents = [
        document
        for document, _ in zip(
            load_collection(DATA / "beir" / options.collection).documents(), range(options.texts), strict=False
        )
    ]
    texts = [document.text for document in documents]
    encoder, peer = Encoder.load(options.model), SentenceTransformer(str(minilm()), device="cpu")
    encoder.encode(texts[:16])
    peer.encode(texts[:16])
    times: dict[str, list[tuple[float, float]]] = {"decant index": [], "MiniLM, sentence-transformers float32": []}
    for _ in range(options.rounds):
        times["decant index"].append(timed(lambda: index(encoder, documents)))
        times["MiniLM, sentence-transformers float32"].append(timed(lambda: peer.encode(texts, batch_size=32)))
    print(f"{len(texts)} passages of {options.collection}, {options.threads} thread(s), {options.rounds} rounds\n")
    print("| | texts/s by the clock | texts/s by processor time |\n|---|---:|---:|")
    for name, found in times.items():
        clock, processor = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {len(texts) / clock:.0f} | {len(texts) / processor:.0f} |")
    ratios = [peer[1] / own[1] for own, peer in zip(*times.values(), strict=True)]
    print(f"\nprocessor time, peer / decant: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
