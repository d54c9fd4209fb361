"""Data of the results, out of the `pairs` step, which drops every pair that shares a word 8-gram with a test text.

Training files, development collections, and what two arms need: mined negatives, and queries behind an example.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import bm25s
import numpy as np
import pyarrow.parquet as pq
import Stemmer
from numpy.typing import NDArray

from decant.embedder import Encoder
from decant.embedder.training.data import TrainingPair, read_pair_data
from decant.embedder.training.mining import MiningSettings, mine
from decant.embedder.training.training_recipe import DataSettings

TEXT_SOURCES = ("wikipedia", "openstax", "docs")
SUPERVISED = ("squad-train", "medquad", "pydoc-train")
DISTRACTORS = 600
SUBSET = 3000
"""Pairs of each source that get mined negatives or examples: more than the arms see."""
EXAMPLE_CHARS = 200


def prepare(run: Path) -> None:
    """Write `data/<source>.jsonl`, `data/text.jsonl` and `data/dev/<source>/` (a BEIR folder each) into the run."""
    out = run / "data"
    if (out / "finished").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    table = pq.read_table(run / "pairs" / "pairs.parquet").to_pydict()
    with np.load(run / "pairs" / "pairs.npz") as stored:
        dev, groups = stored["dev"], stored["groups"]
    by_source: dict[str, list[int]] = {}
    for row, source in enumerate(table["source"]):
        by_source.setdefault(source, []).append(row)
    texts: list[str] = []
    for source, rows in by_source.items():
        train = [row for row in rows if not dev[row]]
        records = [{"query": table["query"][row], "positive": table["positive"][row]} for row in train]
        _write(out / f"{source}.jsonl", records)
        if source in TEXT_SOURCES:
            texts += [record["positive"] for record in records]
        held = [row for row in rows if dev[row]]
        if held:
            _write_collection(out / "dev" / source, table, groups, held, train)
    order = np.random.default_rng(0).permutation(len(texts))
    _write(out / "text.jsonl", [{"text": texts[i]} for i in order])
    (out / "finished").write_text("")


def mine_negatives(run: Path, model: Path) -> None:
    """Write `data/hard/<source>.jsonl`: one mined negative for each pair of a subset."""
    encoder: Encoder | None = None
    for source in SUPERVISED:
        out = run / "data" / "hard" / f"{source}.jsonl"
        if not out.exists():
            encoder = encoder or Encoder.load(model, dtype="float32")
            settings = MiningSettings(negatives=1, pool=10, depth=50)
            mined = mine(_subset(run, source), encoder, settings)
            records = [{"query": m.pair.query, "positive": m.pair.positive, "negatives": m.negatives} for m in mined]
            _write(out, records)


def add_examples(run: Path) -> None:
    """Write `data/rare/<source>.jsonl`: queries of a subset behind an example of the same source."""
    for source in SUPERVISED:
        out = run / "data" / "rare" / f"{source}.jsonl"
        if not out.exists():
            pairs = _subset(run, source)
            examples = Examples(pairs)
            queries = examples.before([pair.query for pair in pairs])
            records = [{"query": q, "positive": pair.positive} for q, pair in zip(queries, pairs, strict=True)]
            _write(out, records)


class Examples:
    """Training pairs to set before a query, found by BM25 over their queries as in RARe."""

    def __init__(self, pairs: Sequence[TrainingPair]) -> None:
        self._pairs, self._index = pairs, bm25s.BM25()
        self._index.index(self._tokens([pair.query for pair in pairs]), show_progress=False)

    @classmethod
    def of_run(cls, run: Path) -> Examples:
        """Examples out of the training subsets of all sources."""
        return cls([pair for source in SUPERVISED for pair in _subset(run, source)])

    def before(self, queries: Sequence[str]) -> list[str]:
        """Each query behind its nearest example; an example equal to the query is passed over."""
        found, _ = self._index.retrieve(self._tokens(list(queries)), k=2, show_progress=False)
        texts: list[str] = []
        for query, row in zip(queries, np.asarray(found), strict=True):
            pair = next(self._pairs[i] for i in row if self._pairs[i].query != query or i == row[-1])
            texts.append(f"Query: {pair.query}\nPositive Document: {pair.positive[:EXAMPLE_CHARS]}\n\nQuery: {query}")
        return texts

    @staticmethod
    def _tokens(texts: list[str]) -> object:
        stemmer = Stemmer.Stemmer("english")
        return bm25s.tokenize(texts, stopwords="en", stemmer=stemmer, show_progress=False)


def _subset(run: Path, source: str) -> list[TrainingPair]:
    pairs = read_pair_data(source, DataSettings([str(run / "data" / f"{source}.jsonl")]), {}).pairs
    rows = np.random.default_rng(1).permutation(len(pairs))[:SUBSET]
    return [pairs[row] for row in rows]


def _write_collection(
    folder: Path, table: dict[str, list[str]], groups: NDArray[np.int64], held: list[int], train: list[int]
) -> None:
    others = np.random.default_rng(0).permutation(train)[: 3 * DISTRACTORS].tolist()
    corpus = {int(groups[row]): table["positive"][row] for row in held}
    goal = len(corpus) + DISTRACTORS
    for row in others:
        if len(corpus) < goal:
            corpus.setdefault(int(groups[row]), table["positive"][row])
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write(folder / "corpus.jsonl", [{"_id": f"d{g}", "title": "", "text": text} for g, text in corpus.items()])
    _write(folder / "queries.jsonl", [{"_id": f"q{row}", "text": table["query"][row]} for row in held])
    lines = ["query-id\tcorpus-id\tscore", *(f"q{row}\td{int(groups[row])}\t1" for row in held)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")


def _write(path: Path, records: Sequence[object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    with unfinished.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    unfinished.replace(path)
