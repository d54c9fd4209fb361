"""Development scores: retrieval among held-out pairs of the training sources. Nothing here reads a test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .pairs import PairSet
from .ragged import Ragged

Encode = Callable[[Ragged, NDArray[np.int64]], NDArray[np.float32]]
"""Vectors (rows, D) of the chosen rows."""


@dataclass(frozen=True)
class DevSet:
    """One source's held-out queries, and the passages they are searched in (their own and distractors).

    Attributes:
        source: the source's name.
        query_rows: (Q,) rows of `pairs.queries`.
        passage_rows: (P,) rows of `pairs.passages`, each text once.
        answers: (Q,) the place in `passage_rows` of each query's passage.
    """

    source: str
    query_rows: NDArray[np.int64]
    passage_rows: NDArray[np.int64]
    answers: NDArray[np.int64]


def dev_sets(pairs: PairSet, distractors: int, seed: int = 0) -> list[DevSet]:
    """The development sets of every source that has held-out pairs; distractors come from its training pairs."""
    rng = np.random.default_rng(seed)
    found: list[DevSet] = []
    for source in np.unique(pairs.sources[pairs.dev]):
        rows = np.flatnonzero(pairs.dev & (pairs.sources == source))
        others = np.flatnonzero(~pairs.dev & (pairs.sources == source))
        pool = np.concatenate([rows, rng.permutation(others)])
        groups, first = np.unique(pairs.groups[pool], return_index=True)
        own = np.isin(groups, pairs.groups[rows])
        passages = np.concatenate([pool[first[own]], pool[np.sort(first[~own])[:distractors]]])
        place = {int(group): i for i, group in enumerate(pairs.groups[passages])}
        answers = np.asarray([place[int(group)] for group in pairs.groups[rows]], np.int64)
        found.append(DevSet(pairs.source_names[source], rows, passages, answers))
    return found


def dev_scores(pairs: PairSet, sets: list[DevSet], encode: Encode, *, unit: bool = True) -> dict[str, float]:
    """nDCG@10 by source and their mean, by exact search: cosine, or inner product where `unit` is False."""
    scores = {one.source: _score(pairs, one, encode, unit=unit) for one in sets}
    return {**scores, "mean": float(np.mean(list(scores.values())))}


def ndcg_of_single_answers(scores: NDArray[np.float32], answers: NDArray[np.int64], depth: int = 10) -> float:
    """Mean nDCG@depth where each query has one right answer; scores (Q, P), ties count against the answer."""
    own = scores[np.arange(len(scores)), answers][:, None]
    ranks = (scores >= own).sum(1)
    return float(np.where(ranks <= depth, 1 / np.log2(1 + ranks), 0.0).mean())


def _score(pairs: PairSet, one: DevSet, encode: Encode, *, unit: bool) -> float:
    queries, passages = encode(pairs.queries, one.query_rows), encode(pairs.passages, one.passage_rows)
    if unit:
        queries, passages = (
            v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (queries, passages)
        )
    return ndcg_of_single_answers(queries @ passages.T, one.answers)
