"""What the writer learns from: questions with the passages that search finds for them, some without the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...embedder.encoder import Encoder
from ...index.batches import index_documents
from ...index.documents import Document
from ...index.searcher import Searcher
from ...index.store import Store
from ..metrics import holds_answer
from ..reader.batches import Asked
from ..reader.data import Questions
from ..reader.material import Material
from ..states import States
from .recipe import WriterRecipe

_SEARCH_AT_ONCE = 256


@dataclass(frozen=True)
class Example:
    """A question put to passages.

    Attributes:
        passages: states, the best first.
        target: ids of the answer's words; empty where nothing answers.
    """

    asked: States
    passages: list[States]
    target: list[int]


class Examples:
    """Draws examples; what is drawn depends on the seed, the step and the place in it alone."""

    def __init__(self, material: Material, rows: Sequence[int], found: NDArray[np.int64], recipe: WriterRecipe) -> None:
        """Take questions `rows` of the material, for each of which `found` (N, K) names passages, the best first."""
        self._material, self._recipe = material, recipe
        self._rows = [
            (row, [passage for passage in passages if passage >= 0])
            for row, passages in zip(rows, found.tolist(), strict=True)
            if self._target(row)
        ]

    def __len__(self) -> int:
        return len(self._rows)

    def batch(self, step: int) -> list[Example]:
        """The examples of a step."""
        count = self._recipe.batch_questions
        rng = np.random.default_rng([self._recipe.seed, step])
        return [self._example(*self._rows[i % len(self)], rng) for i in range(step * count, (step + 1) * count)]

    def _example(self, row: int, found: list[int], rng: np.random.Generator) -> Example:
        recipe, data = self._recipe, self._material.data
        own, kind = int(data.passage_of[row]), rng.random()
        count = max(1, recipe.passages >> int(rng.integers(recipe.passages.bit_length())))
        if own not in found:
            found = [*found]
            found.insert(int(rng.integers(len(found) + 1)), own)
        if kind < recipe.absent:
            others = [p for p in found if not holds_answer(data.passages[p], [data.answers[row]])][:count]
            if others:
                return self._of(Asked(row, own), others, [])
        chosen = found[:count] if own in found[:count] else [*found[: count - 1], own]
        kind -= recipe.absent
        if 0 <= kind < recipe.cut:
            cut = self._material.reading(Asked(row, own, answers=False, cut=True))
            if cut is not None:
                others = [self._material.passages[p] for p in chosen if p != own]
                return Example(self._material.asked[row], [cut[0], *others], [])
        kind -= recipe.cut
        if 0 <= kind < recipe.swapped and row in self._material.swapped_at:
            return self._of(Asked(row, own, answers=False, swapped=True), chosen, [])
        return self._of(Asked(row, own), chosen, self._target(row))

    def _of(self, asked: Asked, passages: list[int], target: list[int]) -> Example:
        return Example(self._material.question(asked), [self._material.passages[p] for p in passages], target)

    def _target(self, row: int) -> list[int]:
        """Ids of a question's answer; none where the passage was cut before it."""
        found = self._material.reading(Asked(row, int(self._material.data.passage_of[row])))
        states, span = found or (None, None)
        return [] if states is None or span is None else states.ids[span[0] : span[1] + 1].tolist()


def search(encoder: Encoder, data: Questions, rows: Sequence[int], count: int, folder: Path) -> NDArray[np.int64]:
    """(N, count) passages that hybrid search finds for questions `rows`, -1 behind the last; kept in `folder`."""
    path = folder / "found.npy"
    if path.exists():
        return np.load(path)
    folder.mkdir(parents=True, exist_ok=True)
    found = np.full((len(rows), count), -1)
    with Store.open(folder / "store", encoder=encoder, create=True) as store:
        index_documents(store, encoder, [Document(str(i), text) for i, text in enumerate(data.passages)])
        searcher = Searcher(store, encoder)
        for start in range(0, len(rows), _SEARCH_AT_ONCE):
            texts = [data.texts[row] for row in rows[start : start + _SEARCH_AT_ONCE]]
            for i, hits in enumerate(searcher.search_many(texts, k=2 * count), start):
                # A long passage is found by several of its pieces.
                best = list(dict.fromkeys(int(hit.chunk.doc_id) for hit in hits))[:count]
                found[i, : len(best)] = best
    unfinished = folder / "found.tmp.npy"
    np.save(unfinished, found)
    unfinished.replace(path)
    return found
