"""Which pairs a training step sees: a pure function of the seed and the step, so that a resumed run is the same run."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .objective import Targets
from .packed_texts import PackedTexts
from .pairs import PairSet
from .ragged import Ragged
from .teacher import TeacherVectors


@dataclass(frozen=True)
class PairBatch:
    """One step's packed queries and passages with their targets."""

    queries: PackedTexts
    passages: PackedTexts
    targets: Targets

    @property
    def tokens(self) -> int:
        """Tokens on both sides."""
        return len(self.queries.input_ids) + len(self.passages.input_ids)


@dataclass(frozen=True)
class BatchPlan:
    """How batches are drawn.

    Attributes:
        seed: of the whole run.
        batch_pairs: pairs a batch, fewer where a source has fewer.
        query_tokens: longest query.
        passage_tokens: longest passage.
        teacher_share: share of the batches drawn from the pairs whose teacher vectors are known.
        flatten: a source is chosen with probability proportional to its size to this power.
    """

    seed: int
    batch_pairs: int
    query_tokens: int
    passage_tokens: int
    teacher_share: float
    flatten: float = 0.75


class PairBatches:
    """Batches of one source each, so that in-batch negatives are of the positive's kind."""

    def __init__(self, pairs: PairSet, teacher: TeacherVectors, rotation: NDArray[np.float32], plan: BatchPlan) -> None:
        """Index the rows by source; `rotation` (D, D) brings teacher vectors into the student's basis."""
        self._pairs, self._teacher, self._rotation, self._plan = pairs, teacher, rotation, plan
        plain = np.flatnonzero(~pairs.dev)
        self._plain = _by_source(plain, pairs.sources[plain])
        self._taught = _by_source(np.arange(len(teacher.rows)), pairs.sources[teacher.rows])

    def __getitem__(self, step: int) -> PairBatch:
        """The batch of a step."""
        rng = np.random.default_rng([self._plan.seed, step])
        if rng.random() < self._plan.teacher_share:
            places = self._draw(rng, self._taught)
            return self._batch(self._teacher.rows[places], self._teacher_vectors(places))
        return self._batch(self._draw(rng, self._plain), None)

    def _batch(self, rows: NDArray[np.int64], teacher: tuple[Tensor, Tensor] | None) -> PairBatch:
        targets = Targets(torch.from_numpy(self._pairs.groups[rows]), teacher)
        queries = pack(self._pairs.queries, rows, self._plan.query_tokens)
        return PairBatch(queries, pack(self._pairs.passages, rows, self._plan.passage_tokens), targets)

    def _draw(self, rng: np.random.Generator, parts: list[NDArray[np.int64]]) -> NDArray[np.int64]:
        weights = np.asarray([len(part) for part in parts], np.float64) ** self._plan.flatten
        part = parts[int(rng.choice(len(parts), p=weights / weights.sum()))]
        return rng.choice(part, size=min(self._plan.batch_pairs, len(part)), replace=False)

    def _teacher_vectors(self, places: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        queries, passages = (
            torch.from_numpy(side[places].astype(np.float32) @ self._rotation)
            for side in (self._teacher.queries, self._teacher.passages)
        )
        return queries, passages


def pack(texts: Ragged, rows: NDArray[np.int64], limit: int) -> PackedTexts:
    """Packs the chosen rows, each cut to `limit` tokens."""
    return PackedTexts.of([texts[int(row)][:limit] for row in rows])


def _by_source(places: NDArray[np.int64], sources: NDArray[np.int16]) -> list[NDArray[np.int64]]:
    parts = [places[sources == source] for source in np.unique(sources)]
    return [part for part in parts if len(part) >= 2]
