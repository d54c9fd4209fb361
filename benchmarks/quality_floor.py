"""The floor under a model that came from a teacher: the teacher's vectors of the token strings, averaged.

No training at all: each token of the model's own vocabulary has the vector that all-MiniLM-L6-v2 gives its string,
centred, weighted by smooth inverse frequency a / (a + p) (Arora, Liang and Ma 2017) with p counted in training texts.
A model that was trained and does not beat this has learned nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from quality_vectors import sts, unit

from decant.embedder import Encoder
from decant.index.beir import load_collection
from decant.index.evaluate import DEPTH, score

SIF = 1e-3
COUNTED = ("pairs/squad-train", "pairs/pydoc-train", "pairs/medquad")
COUNTED_LINES = 8000

Rows = NDArray[np.float32]


class Keeps(Protocol):
    """Where measurements are kept."""

    def once(self, name: str, compute: Callable[[], Any]) -> Any:
        """The measurement of that name."""
        ...


def identity(encoder: Encoder) -> str:
    """What the floor of a vocabulary is called."""
    return hashlib.sha256(encoder.tokenizer.to_str().encode()).hexdigest()[:12]


class Floor:
    """An encoder that is a table and an average."""

    def __init__(self, encoder: Encoder, teacher: Path, data: Path) -> None:
        """Take a model's tokenizer, the teacher's folder, and the data that tokens are counted in."""
        self._tokenizer, self._special = encoder.tokenizer, set(encoder.text_tokenizer.source.all_special_ids)
        self._teacher, self._data = teacher, data

    def __call__(self, texts: Sequence[str]) -> Rows:
        """Unit vectors (N, D)."""
        rows = [self._ids(text) for text in texts]
        return unit(np.stack([self._table[ids].mean(0) for ids in rows]).astype(np.float32))

    def _ids(self, text: str) -> list[int]:
        return [i for i in self._tokenizer.encode(text).ids if i not in self._special] or [0]

    @cached_property
    def _table(self) -> Rows:
        size = self._tokenizer.get_vocab_size()
        strings = [self._tokenizer.decode([i]).strip() or "." for i in range(size)]
        vectors = Encoder.load(self._teacher).encode(strings, outputs=("dense",)).dense
        assert vectors is not None
        counts = np.bincount(np.concatenate([np.asarray(self._ids(text)) for text in self._texts()]), minlength=size)
        weights = SIF / (SIF + counts / counts.sum())
        table = (vectors - vectors.mean(0)) * weights[:, None]
        table[sorted(self._special)] = 0.0
        return table.astype(np.float32)

    def _texts(self) -> list[str]:
        texts: list[str] = []
        for name in COUNTED:
            with gzip.open(self._data / f"{name}.jsonl.gz", "rt", encoding="utf-8") as lines:
                texts += [
                    str(json.loads(line)["positive"]) for line, _ in zip(lines, range(COUNTED_LINES), strict=False)
                ]
        return texts


def measure(
    shelf: Keeps, floor: Floor, folders: Sequence[Path], kept: Callable[[dict[str, Any]], Any], data: Path
) -> None:
    """Measure the floor by exact search of whole documents, and on STS-B."""
    for folder in folders:

        def search(folder: Path = folder) -> Any:
            collection = load_collection(folder)
            documents = list(collection.documents())
            names, rows = [one.doc_id for one in documents], floor([one.text for one in documents])
            ranking: dict[str, list[tuple[str, float]]] = {}
            for query_id, scores in zip(
                collection.queries, floor(list(collection.queries.values())) @ rows.T, strict=True
            ):
                best = np.argsort(-scores, kind="stable")[:DEPTH]
                ranking[query_id] = [(names[i], float(scores[i])) for i in best]
            return kept({"dense": score(collection, ranking)})

        shelf.once(f"search/{folder.name}", search)
    shelf.once("sts", lambda: sts(data, floor))
