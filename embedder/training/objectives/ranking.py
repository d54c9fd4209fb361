"""InfoNCE over a batch's candidates, and the average over Matryoshka widths.

sentence-transformers' MultipleNegativesRankingLoss takes every other passage for wrong, also one equal to the query's
own, and cannot leave the in-batch negatives out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .pair_batches import Candidates


def ranking_loss(scores: Tensor, candidates: Candidates, *, in_batch: bool = True, symmetric: bool = False) -> Tensor:
    """Cross-entropy of each query's positive among its candidates (van den Oord, Li and Vinyals 2018).

    Args:
        scores: (N, candidates), already divided by the temperature.
        candidates: who answers whom; other known answers are no negatives.
        in_batch: whether passages drawn for other queries are negatives.
        symmetric: whether each positive must find its query as well (only among the positives' queries).
    """
    count = candidates.queries
    target = torch.arange(count, device=scores.device)
    excluded = candidates.known
    if not in_batch:
        excluded = excluded | (candidates.owner[None, :] != target[:, None])
    loss = F.cross_entropy(scores.masked_fill(excluded, float("-inf")), target)
    if symmetric:
        back = scores[:, :count].masked_fill(candidates.known[:, :count], float("-inf")).T
        loss = (loss + F.cross_entropy(back, target)) / 2
    return loss


def over_widths(vectors: Tensor, dims: Sequence[int], loss_of: Callable[[Tensor], Tensor]) -> Tensor:
    """Mean of a loss over the first d columns as unit vectors, for each d (Matryoshka, arXiv 2205.13147)."""
    losses = [loss_of(F.normalize(vectors[:, :dim], dim=1)) for dim in dims]
    return torch.stack(losses).mean()
