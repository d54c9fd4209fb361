"""States of questions and passages side by side, as the reader takes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..states import States
from .model import SpanReader


@dataclass(frozen=True)
class Pairs:
    """Padded questions and passages; B pairs over G passages.

    Attributes:
        hidden, ids, mask: (G, T, H) float32, (G, T) int64, (G, T) bool of the passages.
        asked_hidden, asked, known: (B, M, H), (B, M), (B, M) of the questions.
        passage_of: (B,) int64 index into the passages.
    """

    hidden: Tensor
    ids: Tensor
    mask: Tensor
    asked_hidden: Tensor
    asked: Tensor
    known: Tensor
    passage_of: Tensor

    def to(self, device: torch.device) -> Pairs:
        """The same on another device."""
        parts = (self.hidden, self.ids, self.mask, self.asked_hidden, self.asked, self.known, self.passage_of)
        return Pairs(*(part.to(device, non_blocking=True) for part in parts))

    @property
    def tokens(self) -> int:
        """Passage tokens read, padding left out."""
        return int(self.mask.sum(1)[self.passage_of].sum())


def pad(passages: Sequence[States], questions: Sequence[States], passage_of: Sequence[int]) -> Pairs:
    """Put states side by side; every text has a token at least."""
    hidden, ids, mask = _padded(passages)
    asked_hidden, asked, known = _padded(questions)
    return Pairs(hidden, ids, mask, asked_hidden, asked, known, torch.tensor(passage_of))


def read(reader: SpanReader, pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Logits (B, T + 1) of first and last tokens, see `SpanReader.forward`."""
    passage = reader.passage(pairs.hidden, pairs.ids, pairs.mask).of(pairs.passage_of)
    return reader(passage, pairs.asked_hidden, pairs.asked, pairs.known)


def _padded(texts: Sequence[States]) -> tuple[Tensor, Tensor, Tensor]:
    longest = max(len(states) for states in texts)
    hidden = torch.zeros(len(texts), longest, texts[0].hidden.shape[1])
    ids = torch.zeros(len(texts), longest, dtype=torch.int64)
    mask = torch.zeros(len(texts), longest, dtype=torch.bool)
    for i, states in enumerate(texts):
        hidden[i, : len(states)] = torch.from_numpy(np.array(states.hidden)).float()
        ids[i, : len(states)] = torch.from_numpy(states.ids).long()
        mask[i, : len(states)] = True
    return hidden, ids, mask
