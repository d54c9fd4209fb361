"""Which pairs a step sees: a pure function of the seed and the step, so that a resumed run is the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .packed_texts import PackedTexts
from .pairs import PairSet

_FREE, _STEP = 16, 8


@dataclass(frozen=True)
class PairTokens:
    """Batches of so many tokens, from a few sources each.

    Attributes:
        pairs: the pairs; those held out are never drawn.
        seed: of the whole run.
        tokens: of a batch, at least; the last pairs may exceed it.
        limits: longest text, and how often a batch has that limit.
        neighbours: pairs drawn from one source in a row, so that in-batch negatives are of the positive's kind.
        flatten: a source is chosen with probability proportional to its size to this power.
    """

    pairs: PairSet
    seed: int
    tokens: int
    limits: Mapping[int, float]
    neighbours: int = 16
    flatten: float = 0.75

    def __getitem__(self, step: int) -> tuple[PackedTexts, int]:
        """Queries and then their passages, packed in one; and the number of pairs."""
        rng = np.random.default_rng([self.seed, step])
        limit = int(rng.choice(list(self.limits), p=list(self.limits.values())))
        parts, shares = self._sources
        queries, passages, total = list[NDArray[np.uint16]](), list[NDArray[np.uint16]](), 0
        while total < self.tokens:
            part = parts[int(rng.choice(len(parts), p=shares))]
            for row in rng.choice(part, size=min(self.neighbours, len(part)), replace=False):
                queries.append(cut(self.pairs.queries[int(row)], limit))
                passages.append(cut(self.pairs.passages[int(row)], limit))
                total += len(queries[-1]) + len(passages[-1])
        return PackedTexts.of([*queries, *passages]), len(queries)

    @cached_property
    def _sources(self) -> tuple[list[NDArray[np.int64]], NDArray[np.float64]]:
        rows = np.flatnonzero(~self.pairs.dev)
        sources = self.pairs.sources[rows]
        parts = [rows[sources == source] for source in np.unique(sources)]
        sizes = np.asarray([len(part) for part in parts], np.float64) ** self.flatten
        return parts, sizes / sizes.sum()


def cut(ids: NDArray[np.uint16], limit: int) -> NDArray[np.uint16]:
    """A text of at most `limit` tokens, of a length that many texts have: beyond 16 tokens a multiple of 8.

    Texts of one length go through attention together. The last token, which closes the text, is kept.
    """
    longest = min(limit, len(ids) if len(ids) <= _FREE else len(ids) - len(ids) % _STEP)
    return ids if longest == len(ids) else np.concatenate([ids[: longest - 1], ids[-1:]])
