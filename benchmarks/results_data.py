"""Data of the results: training files and development collections out of the `pairs` step.

That step has dropped every pair that shares a word 8-gram with a test text.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

TEXT_SOURCES = ("wikipedia", "openstax", "docs")
DISTRACTORS = 1500


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


def _write_collection(
    folder: Path, table: dict[str, list[str]], groups: np.ndarray, held: list[int], train: list[int]
) -> None:
    others = np.random.default_rng(0).permutation(train)[: 3 * DISTRACTORS].tolist()
    corpus: dict[int, str] = {}
    for row in held:
        corpus[int(groups[row])] = table["positive"][row]
    goal = len(corpus) + DISTRACTORS
    for row in others:
        if len(corpus) < goal:
            corpus.setdefault(int(groups[row]), table["positive"][row])
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    _write(folder / "corpus.jsonl", [{"_id": f"d{g}", "title": "", "text": text} for g, text in corpus.items()])
    _write(folder / "queries.jsonl", [{"_id": f"q{row}", "text": table["query"][row]} for row in held])
    lines = ["query-id\tcorpus-id\tscore", *(f"q{row}\td{int(groups[row])}\t1" for row in held)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(lines) + "\n")


def _write(path: Path, records: list[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
