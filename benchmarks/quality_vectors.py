"""What shorter and coarser vectors cost: the same exact search, and STS-B, with each of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import ir_measures
import numpy as np
from ir_measures import nDCG
from numpy.typing import NDArray
from scipy.stats import spearmanr

from decant.embedder import Encoder
from decant.index.beir import Collection
from decant.index.store import Store

FORMATS = ("float32", "int8", "binary", "binary both")
_TEN = 10

Rows = NDArray[np.float32]


def unit(rows: Rows) -> Rows:
    """Rows of unit length; zero rows stay."""
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


def int8(rows: Rows) -> Rows:
    """What is left after each row was rounded to 127 steps of its own largest value, as the service packs int8."""
    scale = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12) / 127
    return np.rint(rows / scale).astype(np.float32) * scale


def signs(rows: Rows) -> Rows:
    """A bit a value, as -1 and 1."""
    return np.where(rows > 0, np.float32(1), np.float32(-1))


def compared(queries: Rows, rows: Rows, form: str) -> Rows:
    """(Q, N) scores with stored rows in a format; `binary` keeps queries as they are, `binary both` does not."""
    match form:
        case "int8":
            return int8(queries) @ int8(rows).T
        case "binary":
            return queries @ signs(rows).T
        case "binary both":
            return signs(queries) @ signs(rows).T
        case _:
            return queries @ rows.T


def searched_vectors(store: Path, encoder: Encoder) -> tuple[Rows, list[str]]:
    """The stored vectors of an index, (chunks, D), and the document of each."""
    with Store.open(store, encoder=encoder) as opened:
        snapshot = opened.snapshot()
        places = np.arange(len(snapshot))
        return snapshot.vectors(places), snapshot.take(places, ["doc_id"])["doc_id"].to_pylist()


def narrowed(
    collection: Collection, queries: Rows, rows: Rows, doc_ids: Sequence[str], dimensions: Sequence[int]
) -> dict[str, dict[str, float]]:
    """nDCG@10 by width and format; a document scores what its best chunk scores."""
    names, owner = np.unique(np.array(doc_ids), return_inverse=True)
    order = np.argsort(owner, kind="stable")
    starts = np.searchsorted(owner[order], np.arange(len(names)))
    found: dict[str, dict[str, float]] = {}
    for width in (queries.shape[1], *dimensions):
        short_queries, short_rows = unit(queries[:, :width]), unit(rows[:, :width])[order]
        found[str(width)] = {
            form: _ndcg(collection, compared(short_queries, short_rows, form), starts, names) for form in FORMATS
        }
    return found


def _ndcg(collection: Collection, scores: Rows, starts: NDArray[np.int64], names: NDArray[np.str_]) -> float:
    best = np.maximum.reduceat(scores, starts, axis=1)
    top = np.argpartition(-best, min(_TEN, best.shape[1] - 1), axis=1)[:, :_TEN]
    run = {
        query_id: {str(names[i]): float(row[i]) for i in chosen}
        for query_id, row, chosen in zip(collection.queries, best, top, strict=True)
    }
    return float(ir_measures.calc_aggregate([nDCG @ _TEN], collection.qrels, run)[nDCG @ _TEN])


def sts(
    data: Path, encode: Callable[[list[str]], Rows | None], encoder: Encoder | None = None
) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Spearman's rank correlation of cosines with people's scores on STS-B, by split, width and format."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for split in ("dev", "test"):
        with gzip.open(data / "sts" / f"stsb-{split}.jsonl.gz", "rt", encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        sides = [encode([str(record[name]) for record in records]) for name in ("s1", "s2")]
        first, second = (side for side in sides if side is not None)
        judged = [float(record["score"]) for record in records]
        widths = (first.shape[1], *(encoder.spec.dimensions if encoder else ()))
        found[split] = {
            str(width): {form: _correlation(first[:, :width], second[:, :width], judged, form) for form in FORMATS}
            for width in widths
        }
    return found


def _correlation(first: Rows, second: Rows, judged: Sequence[float], form: str) -> float:
    first, second = unit(first), unit(second)
    if form == "int8":
        first, second = int8(first), int8(second)
    elif form != "float32":
        second = signs(second)
        first = signs(first) if form == "binary both" else first
    return float(spearmanr((first * second).sum(1), judged).statistic)
