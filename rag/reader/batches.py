"""Which questions are asked of which passages: their own, and passages that do not answer them.

What retrieval hands to a reader are mostly passages of the right matter without the answer, so that is what the wrong
ones are: the passages of the same article that share most words with a question, and its own passage without the
sentence that answers, or asked something else (`swapping.py`).
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .data import Questions, StateFile
from .recipe import ReaderRecipe

_POOL = 512
_NEAREST = 3


@dataclass(frozen=True)
class Asked:
    """A question put to a passage.

    Attributes:
        answers: whether the passage answers it.
        cut: the passage is read without the sentence that answers.
        swapped: the question is asked with a thing in it exchanged.
    """

    question: int
    passage: int
    answers: bool = True
    cut: bool = False
    swapped: bool = False


class Batches:
    """What is asked at a step; depends on the seed and the step alone."""

    def __init__(
        self,
        questions: Questions,
        lengths: NDArray[np.int64],
        strangers: dict[int, list[int]],
        swappable: Container[int],
        recipe: ReaderRecipe,
    ) -> None:
        """Take passages of (P,) lengths that are not held out.

        `strangers` are of `nearest_strangers`, `swappable` holds the questions that have another form without answer.
        """
        self._swappable = swappable
        self._recipe = recipe
        self._lengths = lengths
        self._strangers = strangers
        self._by_passage: dict[int, list[int]] = {}
        for i in np.flatnonzero(~questions.dev).tolist():
            if lengths[passage := int(questions.passage_of[i])] <= recipe.max_tokens:
                self._by_passage.setdefault(passage, []).append(i)
        self._passages = list(self._by_passage)
        self._batches = self._endless()
        self._made: list[list[Asked]] = []

    def __getitem__(self, step: int) -> list[Asked]:
        while len(self._made) <= step:
            self._made.append(next(self._batches))
        return self._made[step]

    def _endless(self) -> Iterator[list[Asked]]:
        for epoch in count():
            yield from self._epoch(np.random.default_rng([self._recipe.seed, epoch]))

    def _epoch(self, rng: np.random.Generator) -> list[list[Asked]]:
        order = [self._passages[i] for i in rng.permutation(len(self._passages))]
        batches: list[list[Asked]] = []
        for start in range(0, len(order), _POOL):
            batch: list[Asked] = []
            for passage in sorted(order[start : start + _POOL], key=lambda p: int(self._lengths[p])):
                asked = self._asked(passage, rng)
                if batch and (len(batch) + len(asked)) * self._lengths[passage] > self._recipe.batch_tokens:
                    batches.append(batch)
                    batch = []
                batch = batch + asked
            batches.append(batch)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _asked(self, passage: int, rng: np.random.Generator) -> list[Asked]:
        own, strangers = self._by_passage[passage], self._strangers.get(passage, [])
        asked = [Asked(question, passage) for question in own]
        wrong = rng.binomial(len(own), self._recipe.unanswerable)
        if strangers:
            asked += [Asked(strangers[i], passage, answers=False) for i in rng.integers(len(strangers), size=wrong)]
        cut = rng.permutation(own)[: rng.binomial(len(own), self._recipe.cut)].tolist()
        asked += [Asked(question, passage, answers=False, cut=True) for question in cut]
        swapped = rng.permutation(own)[: rng.binomial(len(own), self._recipe.swapped)].tolist()
        return asked + [Asked(i, passage, answers=False, swapped=True) for i in swapped if i in self._swappable]


def nearest_strangers(
    questions: Questions, asked: StateFile, passages: StateFile, folded: Tensor
) -> dict[int, list[int]]:
    """For each passage, questions of others of its article for which it is one of the nearest by rare words shared."""
    fold = folded.numpy()
    words = [np.unique(fold[passages[i].ids]) for i in range(len(passages))]
    frequency = np.bincount(np.concatenate(words), minlength=len(fold))
    rarity = np.log(1 + len(words) / (1 + frequency)).astype(np.float32)
    found: dict[int, list[int]] = {}
    of_article = questions.articles[questions.passage_of]
    for article in np.unique(questions.articles).tolist():
        members = np.flatnonzero(questions.articles == article)
        rows = np.flatnonzero(of_article == article)
        has = np.zeros((len(members), len(fold)), np.float32)
        for i, passage in enumerate(members):
            has[i, words[passage]] = rarity[words[passage]]
        for row in rows.tolist():
            shared = has[:, np.unique(fold[asked[row].ids])].sum(1)
            shared[members == questions.passage_of[row]] = -1
            for near in np.argsort(-shared)[:_NEAREST].tolist():
                if shared[near] >= 0:
                    found.setdefault(int(members[near]), []).append(row)
    return found
