"""Hard negatives that are no hidden positives (NV-Retriever, arXiv 2407.15831), harder or softer as the model can bear.

sentence-transformers' `mine_hard_negatives` compares a candidate with one positive at a time, where a query's worst
positive is the safe bound, and has no softer negatives for queries whose positive the model does not find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from .data import TrainingPair
from .settings import RecipeError


@dataclass(frozen=True)
class MiningSettings:
    """How negatives are chosen.

    Attributes:
        negatives: for each pair.
        limit: a candidate must score below `limit` times the query's lowest positive (`percent`), or below that score
            minus `limit` (`margin`).
        limit_kind: which of the two.
        pool: negatives are drawn from this many of the best candidates that are left.
        depth: passages looked at for each query.
        soft: `none` takes hard ones only. `by_rank` follows APEX (arXiv 2410.18105) in choosing the mix by the model's
            own scores; the rule is this project's, as the paper's thresholds were not found: of a query whose positive
            has rank r, the share log(r) / log(depth) is drawn at random from all passages below the limit.
        seed: of the draws.
    """

    negatives: int = 4
    limit: float = 0.95
    limit_kind: Literal["percent", "margin"] = "percent"
    pool: int = 10
    depth: int = 100
    soft: Literal["none", "by_rank"] = "none"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that give nothing."""
        if self.negatives < 1 or self.pool < self.negatives or self.depth < self.pool:
            raise RecipeError("mining needs 1 <= negatives <= pool <= depth")
        if self.limit < 0 or (self.limit_kind == "percent" and self.limit > 1):
            raise RecipeError(f"limit: {self.limit} is no {self.limit_kind} below the positive")


@dataclass(frozen=True)
class Mined:
    """A pair with its negatives.

    Attributes:
        negatives: texts, hard ones first.
        hard: how many of them are hard.
        positive_score: the query's lowest positive.
        scores: of the negatives.
    """

    pair: TrainingPair
    negatives: list[str]
    hard: int
    positive_score: float
    scores: list[float]


class Encodes(Protocol):
    """What mining needs of an `Encoder`."""

    def encode(self, texts: list[str], *, kind: str) -> Any:
        """Return something whose `dense` is (N, D) float32."""
        ...


def mine(
    pairs: Sequence[TrainingPair],
    encoder: Encodes,
    settings: MiningSettings,
    *,
    query_kind: str = "query",
    passage_kind: str = "document",
) -> Iterator[Mined]:
    """Yields each pair with negatives out of the other pairs' passages, in order.

    A pair whose candidates all score too high gets fewer negatives, or none.
    """
    passages = list(dict.fromkeys(pair.positive for pair in pairs))
    queries = list(dict.fromkeys(pair.query for pair in pairs))
    passage_ids = {text: i for i, text in enumerate(passages)}
    query_ids = {text: i for i, text in enumerate(queries)}
    positives: dict[int, set[int]] = {}
    for pair in pairs:
        positives.setdefault(query_ids[pair.query], set()).add(passage_ids[pair.positive])
    asked = _unit(encoder.encode(queries, kind=query_kind).dense)
    found = _unit(encoder.encode(passages, kind=passage_kind).dense)
    scores, ranked = _search(asked, found, settings.depth + max(map(len, positives.values())))
    for number, pair in enumerate(pairs):
        query = query_ids[pair.query]
        own = np.asarray(sorted(positives[query]))
        lowest = float((found[own] @ asked[query]).min())
        row = _Row(ranked[query], scores[query], own, lowest, threshold(lowest, settings))
        chosen, hard = _choose(row, settings, np.random.default_rng([settings.seed, number]), asked[query], found)
        values = (found[chosen] @ asked[query]).tolist() if len(chosen) else []
        yield Mined(pair, [passages[i] for i in chosen], hard, lowest, values)


def threshold(lowest_positive: float, settings: MiningSettings) -> float:
    """The score a negative must stay below; a negative positive moves down as well, not up."""
    if settings.limit_kind == "margin":
        return lowest_positive - settings.limit
    return lowest_positive - (1 - settings.limit) * abs(lowest_positive)


def hard_share(rank: int, settings: MiningSettings) -> float:
    """Which share of a query's negatives is hard, where its lowest positive has this rank (from 1)."""
    if settings.soft == "none":
        return 1.0
    return 1.0 - min(1.0, float(np.log(rank) / np.log(settings.depth)))


@dataclass(frozen=True)
class _Row:
    """One query's search result, its positives and the bound."""

    ranked: NDArray[np.int64]
    scores: NDArray[np.float32]
    positives: NDArray[np.int64]
    lowest: float
    bound: float


def _choose(
    row: _Row,
    settings: MiningSettings,
    rng: np.random.Generator,
    query: NDArray[np.float32],
    passages: NDArray[np.float32],
) -> tuple[list[int], int]:
    open_ = (row.ranked >= 0) & ~np.isin(row.ranked, row.positives) & (row.scores < row.bound)
    best = row.ranked[open_][: settings.pool]
    rank = int((row.scores > row.lowest).sum()) + 1
    wanted = round(hard_share(rank, settings) * settings.negatives)
    hard = rng.choice(best, size=min(wanted, len(best)), replace=False).tolist()
    soft: list[int] = []
    if settings.soft != "none":
        drawn = rng.choice(len(passages), size=min(len(passages), 8 * settings.negatives), replace=False)
        fits = (passages[drawn] @ query < row.bound) & ~np.isin(drawn, row.positives) & ~np.isin(drawn, hard)
        soft = drawn[fits][: settings.negatives - len(hard)].tolist()
    return hard + soft, len(hard)


def _search(
    queries: NDArray[np.float32], passages: NDArray[np.float32], depth: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and passages, (Q, depth) each, best first; -1 where there are fewer passages."""
    index: Any = faiss.IndexFlatIP(passages.shape[1])
    index.add(passages)
    return index.search(queries, depth)


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
