"""What a verifier is trained on: questions with the piece of a passage that answers them, or with one that does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ...embedder.encoder import Encoder
from ..reader.batches import nearest_strangers
from ..reader.data import Questions, holds_words, token_span, without_sentences
from ..reader.swapping import altered
from ..reader.traits import token_traits
from ..states import Tokens, read_tokens
from .model import MARKS, Pair, most_asked, piece_around
from .recipe import VerifierRecipe


@dataclass(frozen=True)
class Piece:
    """A pair with its answer.

    Attributes:
        passage: the text that the piece is of.
        offsets: (T, 2) `passage[start:end]` of each token of the piece.
        span: first and last token of the answer in the piece; None if it is not there.
    """

    pair: Pair
    passage: str
    offsets: NDArray[np.int32]
    span: tuple[int, int] | None

    def text(self, first: int, last: int) -> str:
        """What stands from one token of the piece to another."""
        return self.passage[self.offsets[first, 0] : self.offsets[last, 1]]


@dataclass(frozen=True)
class Pieces:
    """Pieces by step; what they are depends on the seed and the step alone.

    Attributes:
        asked, passages: tokens of all questions and passages.
        others: each question in another form that nothing answers, empty where it has none.
        swapped: tokens of those, by question.
        near: passages that do not answer a question, though they are near to it, by question.
        rarity: (V,) float32, what a word that question and passage share counts, by folded id.
        folded, traits: see `token_traits`.
    """

    questions: Questions
    asked: Sequence[Tokens]
    passages: Sequence[Tokens]
    others: Sequence[str]
    swapped: Mapping[int, Tokens]
    near: Mapping[int, Sequence[int]]
    rarity: NDArray[np.float32]
    folded: NDArray[np.int32]
    traits: NDArray[np.bool_]
    recipe: VerifierRecipe

    @classmethod
    def of(cls, encoder: Encoder, questions: Questions, recipe: VerifierRecipe) -> Pieces:
        """All questions and passages as the encoder's tokenizer cuts them."""

        def questions_of(texts: list[str]) -> list[Tokens]:
            most = most_asked(recipe.tokens)
            return [Tokens(own.ids[:most], own.offsets[:most]) for own in read_tokens(encoder, texts, "query")]

        asked, passages = questions_of(questions.texts), read_tokens(encoder, questions.passages)
        others = altered(questions, recipe.seed)
        rows = [row for row, text in enumerate(others) if text]
        swapped = questions_of([others[row] for row in rows])
        folded, traits = token_traits(encoder)
        near: dict[int, list[int]] = {}
        for passage, strangers in nearest_strangers(questions, asked, passages, folded).items():
            for row in strangers:
                near.setdefault(row, []).append(passage)
        words = [np.unique(folded.numpy()[passage.ids]) for passage in passages]
        counts = np.bincount(np.concatenate(words), minlength=len(folded))
        rarity = np.log(1 + len(passages) / (1 + counts)).astype(np.float32)
        by_row = dict(zip(rows, swapped, strict=True))
        return cls(questions, asked, passages, others, by_row, near, rarity, folded.numpy(), traits.numpy(), recipe)

    def __getitem__(self, step: int) -> list[Piece]:
        rows = np.flatnonzero(~self.questions.dev)
        size = min(self.recipe.batch, len(rows))
        epoch, place = divmod(step, len(rows) // size)
        order = np.random.default_rng([self.recipe.seed, epoch]).permutation(rows)
        rng = np.random.default_rng([self.recipe.seed, step, 1])
        made = (self._piece(row, rng) for row in order[place * size : (place + 1) * size].tolist())
        return [piece for piece in made if piece is not None]

    def _piece(self, row: int, rng: np.random.Generator) -> Piece | None:
        kind = rng.random()
        if (kind := kind - self.recipe.strangers) < 0:
            near = self.near.get(row, ())
            return self._elsewhere(row, near[int(rng.integers(len(near)))]) if near else None
        if (kind := kind - self.recipe.cut) < 0:
            return self._cut(row)
        if kind < self.recipe.swapped:
            return self.own(row, rng, self.swapped.get(row))
        return self.own(row, rng)

    def own(self, row: int, rng: np.random.Generator | None = None, other: Tokens | None = None) -> Piece | None:
        """A piece of the question's own passage with the answer anywhere in it, or in the middle without `rng`.

        Where the question is asked in its `other` form, nothing answers.
        """
        passage = self.passages[int(self.questions.passage_of[row])]
        span = token_span(passage.offsets, *self.questions.spans[row].tolist())
        question = self.asked[row] if other is None else other
        room = self.recipe.tokens - MARKS - len(question)
        if span is None or span[1] - span[0] >= room:
            return None
        piece = piece_around(len(passage), *span, room)
        if rng is not None and len(passage) > room:
            start = int(rng.integers(max(0, span[1] + 1 - room), min(span[0], len(passage) - room) + 1))
            piece = slice(start, start + room)
        answer = None if other is not None else (span[0] - piece.start, span[1] - piece.start)
        text = self.questions.passages[int(self.questions.passage_of[row])]
        return Piece(Pair(question.ids, passage.ids[piece]), text, passage.offsets[piece], answer)

    def _cut(self, row: int) -> Piece | None:
        owner = int(self.questions.passage_of[row])
        passage = self.passages[owner]
        span = token_span(passage.offsets, *self.questions.spans[row].tolist())
        if span is None:
            return None
        kept = without_sentences(passage, span, self.traits)
        left = Tokens(passage.ids[kept], passage.offsets[kept])
        text = self.questions.passages[owner]
        words = "".join(text[start:end] for start, end in left.offsets.tolist())
        if not len(left) or holds_words(words, self.questions.answers[row]):
            return None
        return self._elsewhere(row, owner, left)

    def _elsewhere(self, row: int, owner: int, left: Tokens | None = None) -> Piece:
        """The piece of a passage, or of what is left of it, that shares most with the question."""
        question, passage, text = self.asked[row], left or self.passages[owner], self.questions.passages[owner]
        room = self.recipe.tokens - MARKS - len(question)
        own = np.isin(self.folded[passage.ids], self.folded[question.ids])
        sums = np.concatenate([[0.0], np.cumsum(own * self.rarity[self.folded[passage.ids]])])
        starts = np.arange(max(1, len(passage) - room + 1))
        start = int(np.argmax(sums[np.minimum(starts + room, len(passage))] - sums[starts]))
        piece = slice(start, start + room)
        return Piece(Pair(question.ids, passage.ids[piece]), text, passage.offsets[piece], None)
