"""The training objective on one batch of pairs, shared by the token table and the transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .losses import cosine_distance, info_nce, prefixes, score_divergence


@dataclass(frozen=True)
class Targets:
    """What a batch is trained towards.

    Attributes:
        groups: (N,) int64, equal where passages are the same text.
        teacher: unit query and passage vectors (N, D) of the teacher in the student's basis; None without them.
    """

    groups: Tensor
    teacher: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Objective:
    """Contrastive loss on every Matryoshka prefix, and distillation where the teacher's vectors are known."""

    dims: Sequence[int]
    temperature: float
    contrastive_weight: float
    cosine_weight: float
    scores_weight: float

    def __call__(self, queries: Tensor, passages: Tensor, targets: Targets) -> Tensor:
        """The mean over prefixes of the weighted losses; queries and passages (N, D) need not be normalised."""
        total = torch.zeros((), device=queries.device)
        for pair in zip(prefixes(queries, self.dims), prefixes(passages, self.dims), strict=True):
            total = total + self.contrastive_weight * info_nce(*pair, targets.groups, self.temperature)
            if targets.teacher is not None:
                divergence = score_divergence(pair, targets.teacher, self.temperature)
                total = total + self.scores_weight * divergence
        total = total / len(self.dims)
        if targets.teacher is not None:
            distance = cosine_distance(queries, targets.teacher[0]) + cosine_distance(passages, targets.teacher[1])
            total = total + self.cosine_weight * distance
        return total
