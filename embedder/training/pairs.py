"""The pairs step: collect, drop what overlaps test texts, hold out a development slice, tokenise."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from .natural_pairs import natural_pairs
from .overlap import NgramSet
from .ragged import Ragged
from .recipe import PairsRecipe
from .sources import Pair, read_beir_texts, read_pairs, read_texts


@dataclass(frozen=True)
class PairSet:
    """Tokenised pairs: `queries[i]` and `passages[i]` belong together.

    Attributes:
        queries: token ids of the queries, cut to the recipe's limit.
        passages: token ids of the passages, cut likewise.
        sources: (N,) int16, an index into `source_names`.
        groups: (N,) int64, equal exactly where the passage texts are equal.
        dev: (N,) bool, held out from training.
        source_names: the names that `sources` points to.
    """

    queries: Ragged
    passages: Ragged
    sources: NDArray[np.int16]
    groups: NDArray[np.int64]
    dev: NDArray[np.bool_]
    source_names: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Reads the output of `build_pairs`."""
        with np.load(folder / "pairs.npz") as stored:
            arrays = {name: stored[name] for name in ("sources", "groups", "dev")}
        names = json.loads((folder / "report.json").read_text())["sources"]
        queries, passages = Ragged.load(folder / "queries.npz"), Ragged.load(folder / "passages.npz")
        return cls(queries, passages, source_names=list(names), **arrays)


def build_pairs(root: Path, tokenizer: PreTrainedTokenizerBase, recipe: PairsRecipe, folder: Path) -> None:
    """Writes pairs.parquet (texts), queries.npz, passages.npz, pairs.npz and report.json into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    test = NgramSet((t for name in recipe.test_sets for t in read_beir_texts(root, name)), recipe.overlap_ngram)
    pairs, dropped = list[Pair](), dict[str, int]()
    for name, most in recipe.sources.items():
        found = collect(root, name, most, recipe)
        kept = [pair for pair in found if not _overlaps(pair, test)]
        dropped[name] = len(found) - len(kept)
        pairs += kept
    groups = _group(pairs)
    dev = hold_out([pair.source for pair in pairs], groups, recipe.dev)
    names = list(recipe.sources)
    sources = np.asarray([names.index(pair.source) for pair in pairs], np.int16)
    np.savez(folder / "pairs.npz", sources=sources, groups=groups, dev=dev)
    _tokenised(tokenizer, [pair.query for pair in pairs], recipe.query_tokens).save(folder / "queries.npz")
    _tokenised(tokenizer, [pair.positive for pair in pairs], recipe.passage_tokens).save(folder / "passages.npz")
    columns = {"query": [p.query for p in pairs], "positive": [p.positive for p in pairs]}
    pq.write_table(pa.table({**columns, "source": [p.source for p in pairs]}), folder / "pairs.parquet")
    report = {
        "sources": {name: int((sources == i).sum()) for i, name in enumerate(names)},
        "dropped_for_overlap": dropped,
        "dev": {name: int((dev & (sources == names.index(name))).sum()) for name in recipe.dev},
        "test_ngrams": len(test),
    }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")


def collect(root: Path, name: str, most: int, recipe: PairsRecipe) -> list[Pair]:
    """At most `most` pairs of a source, drawn evenly at random and kept in file order."""
    rng = random.Random(f"{recipe.seed}:{name}")
    found = list(_stream(root, name, recipe, rng))
    chosen = sorted(rng.sample(range(len(found)), min(most, len(found))))
    return [found[i] for i in chosen]


def hold_out(sources: list[str], groups: NDArray[np.int64], counts: dict[str, int]) -> NDArray[np.bool_]:
    """Marks development rows: whole groups, by a hash of the group, until a source has its count of queries."""
    dev = np.zeros(len(sources), np.bool_)
    for name, count in counts.items():
        rows = np.asarray([i for i, source in enumerate(sources) if source == name], np.int64)
        order = rows[np.argsort([zlib.crc32(str(groups[row]).encode()) for row in rows], kind="stable")]
        last_group = groups[order[min(count, len(order)) - 1]] if len(order) else -1
        taken = set(groups[order[:count]].tolist()) | {int(last_group)}
        dev |= np.isin(groups, list(taken)) & np.isin(np.arange(len(sources)), rows)
    return dev


def _stream(root: Path, name: str, recipe: PairsRecipe, rng: random.Random) -> Iterator[Pair]:
    if (root / "pairs" / f"{name}.jsonl.gz").is_file():
        yield from read_pairs(root, name)
        return
    for title, text in read_texts(root, name):
        yield from natural_pairs(title, text, name, recipe.chunk_chars, rng)


def _overlaps(pair: Pair, test: NgramSet) -> bool:
    return test.shared(pair.query) > 0 or test.shared(pair.positive) > 0


def _group(pairs: list[Pair]) -> NDArray[np.int64]:
    seen: dict[str, int] = {}
    return np.asarray([seen.setdefault(pair.positive, len(seen)) for pair in pairs], np.int64)


def _tokenised(tokenizer: PreTrainedTokenizerBase, texts: list[str], limit: int) -> Ragged:
    rows: list[list[int]] = []
    for start in range(0, len(texts), 8_192):
        batch = tokenizer(texts[start : start + 8_192], truncation=True, max_length=limit)
        rows += batch["input_ids"]
    return Ragged.of(rows)
