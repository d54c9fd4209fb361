"""How the tokens of a passage match those of a question: no weights of its own, but those of the question's words."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .traits import sentence_numbers

_WINDOWS = (9, 33)
_MOST_SENTENCES = 24
MATCHES = 6 + len(_WINDOWS)


@dataclass(frozen=True)
class Question:
    """Padded questions.

    Attributes:
        hidden: (B, M, H) unit vectors of the states.
        folded: (B, M) ids with case and leading space folded, so that `The` matches ` the`.
        ids: (B, M) int64.
        known: (B, M) bool, true for tokens.
        importance: (B, M) float32, 0 to 1, 0 for padding.
    """

    hidden: Tensor
    folded: Tensor
    ids: Tensor
    known: Tensor
    importance: Tensor


@dataclass(frozen=True)
class Nearness:
    """Each passage token beside each of its question's.

    Attributes:
        same: (B, T, M) bool, whether they are one word with case folded.
        cosines: (B, T, M) float32 of the states; -1 for padding.
        known, importance: the question's.
    """

    same: Tensor
    cosines: Tensor
    known: Tensor
    importance: Tensor


def match(
    question: Question, hidden: Tensor, folded: Tensor, ids: Tensor, mask: Tensor, traits: Tensor
) -> tuple[Tensor, Nearness]:
    """Compare (B, T) passage tokens with their questions.

    Returns:
        (B, T, MATCHES) float32: whether the token occurs in the question; how important it is there; the nearest
        question token's cosine, and that times its importance; importance of matches around it; the share of the
        question that its sentence holds, and how that compares with the passage's best sentence. And what it was
        made of.
    """
    known, importance = question.known[:, None], question.importance
    same = (folded[:, :, None] == question.folded[:, None]) & known & mask[..., None]
    exact = ((ids[:, :, None] == question.ids[:, None]) & known).any(-1).float()
    weighted = (same * importance[:, None]).amax(-1)
    cosines = (hidden @ question.hidden.transpose(1, 2)).float().masked_fill(~known, -1.0)
    nearest, where = cosines.max(-1)
    soft = nearest * importance.gather(1, where)
    around = [F.avg_pool1d(weighted[:, None], size, stride=1, padding=size // 2)[:, 0] for size in _WINDOWS]
    held = _held_by_sentence(same, importance, traits)
    cosines = cosines.masked_fill(~mask[..., None], -1.0)
    matches = torch.stack([exact, weighted, nearest, soft, *around, *held], -1)
    return matches, Nearness(same, cosines, question.known, importance)


def _held_by_sentence(same: Tensor, importance: Tensor, traits: Tensor) -> tuple[Tensor, Tensor]:
    """For each token two (B, T): its sentence's share of the question, and that over the best sentence's."""
    numbers = sentence_numbers(traits).clamp(max=_MOST_SENTENCES - 1)
    belongs = F.one_hot(numbers, int(numbers.max()) + 1).to(importance.dtype)
    holds = (belongs.transpose(1, 2) @ same.to(importance.dtype)).clamp(max=1.0)
    share = (holds @ importance[..., None]) / importance.sum(1)[:, None, None].clamp(min=1e-6)
    relative = share / share.amax(1, keepdim=True).clamp(min=1e-6)
    return (belongs @ share)[..., 0], (belongs @ relative)[..., 0]
