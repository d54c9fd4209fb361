"""Reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): lists merged by rank, scores ignored."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from .topk import Ranked, ranked

RRF_K = 60
RANK_BASE = 1


def reciprocal_rank_fusion(
    lists: Mapping[str, Ranked], names: NDArray[np.bytes_], k: int, *, rrf_k: int = RRF_K, rank_base: int = RANK_BASE
) -> Ranked:
    """Merge lists into one of at most k rows, equal sums by name.

    A row's score is the sum over the lists that hold it of 1 / (rrf_k + rank), the first rank being `rank_base`.

    Args:
        lists: the lists by name, each best first.
        names: (N,) the name of every row of the snapshot.
        k: how many rows to keep.
        rrf_k: damps the difference between neighbouring ranks.
        rank_base: the first row's rank.
    """
    every = np.concatenate([found.positions for found in lists.values()])
    shares = [1.0 / (rrf_k + rank_base + np.arange(len(found))) for found in lists.values()]
    positions, places = np.unique(every, return_inverse=True)
    sums = np.bincount(places, weights=np.concatenate(shares), minlength=len(positions)).astype(np.float32)
    return ranked(positions, sums, names[positions], k)


def ranks_of(lists: Mapping[str, Ranked], positions: NDArray[np.int64]) -> list[dict[str, int]]:
    """For each position, its rank (from 1) in every list that holds it."""
    tables = {name: {int(p): i + 1 for i, p in enumerate(found.positions)} for name, found in lists.items()}
    return [{name: ranks[int(p)] for name, ranks in tables.items() if int(p) in ranks} for p in positions]
