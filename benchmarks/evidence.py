"""Choose the rules by which evidence becomes an answer, on SQuAD training questions (never on test questions).

    python benchmarks/evidence.py [--questions 300] [--paragraphs 1500]

Half of the questions have their paragraph in the store, the other half come from articles that are not in it. For each
weight of the question's words: how often the strongest sentence holds the answer, how often one of three does, and how
well strength tells answerable from unanswerable, with the threshold that keeps 80 % of the answerable ones.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from decant.embedder import Encoder
from decant.index import Document, Searcher, Store
from decant.index.batches import index_documents
from decant.rag.answering import AnswerRules
from decant.rag.evidence import find_evidence

DATA = Path(os.environ.get("DECANT_DATA", "../shared/data"))
COVERAGE = 0.8


def load(paragraphs: int, questions: int) -> tuple[list[str], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return paragraphs for the store, answerable questions, and unanswerable ones from other articles."""
    with gzip.open(DATA / "pairs" / "squad-train.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    titles = sorted({row["title"] for row in rows})
    rng = np.random.default_rng(0)
    rng.shuffle(titles)
    inside: set[str] = set()
    texts: dict[str, None] = {}
    for title in titles:
        if len(texts) >= paragraphs:
            break
        inside.add(title)
        texts.update(dict.fromkeys(row["positive"] for row in rows if row["title"] == title))
    pools = [[row for row in rows if (row["title"] in inside) is wanted] for wanted in (True, False)]
    picked = [[pool[i] for i in rng.choice(len(pool), questions // 2, replace=False)] for pool in pools]
    return list(texts), picked[0], picked[1]


def area_under_curve(high: list[float], low: list[float]) -> float:
    """Probability that an answerable question's strength exceeds an unanswerable one's."""
    return float(np.mean(np.array(high)[:, None] > np.array(low)[None, :]))


def main() -> int:
    """Print one line per weight."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--paragraphs", type=int, default=1500)
    options = parser.parse_args()
    encoder, rules = Encoder.load(options.model), AnswerRules()
    texts, answerable, unanswerable = load(options.paragraphs, options.questions)
    with (
        tempfile.TemporaryDirectory() as scratch,
        Store.open(Path(scratch) / "s", encoder=encoder, create=True) as store,
    ):
        index_documents(store, encoder, [Document(f"p{i}", text) for i, text in enumerate(texts)])
        searcher = Searcher(store, encoder)
        asked = answerable + unanswerable
        found = searcher.search_many([row["query"] for row in asked], mode=rules.mode, k=rules.passages)
        retrieved = np.mean(
            [any(row["positive"] == h.chunk.text for h in hits) for row, hits in zip(answerable, found, strict=False)]
        )
        print(
            f"{len(texts)} paragraphs, {len(asked)} questions, paragraph among {rules.passages} found: {retrieved:.3f}"
        )
        print(f"{'word weight':>11} {'answer in 1':>11} {'in 3':>6} {'AUC':>6} {'threshold':>9} {'abstains':>8}")
        for weight in (0.0, 1.0, 2.0, 3.0, 4.0, 6.0):
            ranked = [
                find_evidence(row["query"], hits, store, encoder, word_weight=weight)
                for row, hits in zip(asked, found, strict=True)
            ]
            holds = [
                [any(answer in e.sentence.text for answer in row["answers"]) for e in evidence[:3]]
                for row, evidence in zip(answerable, ranked, strict=False)
            ]
            strengths = [evidence[0].score for evidence in ranked]
            high, low = strengths[: len(answerable)], strengths[len(answerable) :]
            threshold = float(np.quantile(high, 1 - COVERAGE))
            print(
                f"{weight:11.1f} {np.mean([h[0] for h in holds]):11.3f} {np.mean([any(h) for h in holds]):6.3f} "
                f"{area_under_curve(high, low):6.3f} {threshold:9.2f} {np.mean(np.array(low) < threshold):8.3f}"
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
