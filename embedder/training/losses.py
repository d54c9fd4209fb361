"""Losses on the vectors of a packed batch.

sentence-transformers has these losses on padded feature dictionaries of a SentenceTransformer; here the vectors come
from packed batches or from a bare token table, so only the arithmetic is stated, on plain tensors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def info_nce(queries: Tensor, passages: Tensor, groups: Tensor, temperature: float) -> Tensor:
    """Contrastive loss with in-batch negatives, in both directions.

    van den Oord, Li and Vinyals (2018); a passage equal to the query's own (same group) is no negative.

    Args:
        queries: (N, D) unit vectors.
        passages: (N, D) unit vectors; row i belongs to query i.
        groups: (N,) integers, equal where the passages are the same text.
        temperature: divides the cosines.
    """
    scores = queries @ passages.T / temperature
    same = groups[:, None] == groups[None, :]
    same.fill_diagonal_(False)
    scores = scores.masked_fill(same, float("-inf"))
    target = torch.arange(len(scores), device=scores.device)
    return (F.cross_entropy(scores, target) + F.cross_entropy(scores.T, target)) / 2


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean of 1 - cosine between rows, both (N, D)."""
    return 1 - F.cosine_similarity(student, teacher, dim=1).mean()


def score_divergence(student: tuple[Tensor, Tensor], teacher: tuple[Tensor, Tensor], temperature: float) -> Tensor:
    """KL divergence from the teacher's in-batch score distribution to the student's, in both directions.

    Hinton, Vinyals and Dean (2015), on the rows and on the columns of the query-passage score matrix.

    Args:
        student: unit query and passage vectors, (N, D) each.
        teacher: the same of the teacher; its width may differ.
        temperature: divides both score matrices.
    """
    ours = student[0] @ student[1].T / temperature
    theirs = teacher[0] @ teacher[1].T / temperature
    return (_divergence(ours, theirs) + _divergence(ours.T, theirs.T)) / 2


def prefixes(vectors: Tensor, dims: Sequence[int]) -> list[Tensor]:
    """The first d columns as unit vectors, for each d (Kusupati et al. 2022, Matryoshka representation learning)."""
    return [F.normalize(vectors[:, :dim], dim=1) for dim in dims]


def _divergence(ours: Tensor, theirs: Tensor) -> Tensor:
    return F.kl_div(ours.log_softmax(1), theirs.log_softmax(1), reduction="batchmean", log_target=True)
