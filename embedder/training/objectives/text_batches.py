"""Pieces of running text, drawn for a step."""

from __future__ import annotations

import numpy as np

from ...template import Template
from ..data import TextData
from ..packed_texts import PackedTexts
from ..run import TrainingError
from .context import Context

# Rounds in which pieces that are too short are drawn again.
_TRIES = 100


class TextBatches:
    """Draws pieces of texts, every character of the data sets equally likely to begin one."""

    def __init__(self, context: Context, names: list[str], max_tokens: int) -> None:
        """Prepare for pieces of at most `max_tokens` tokens, special ones included."""
        self._context, self._max_tokens = context, max_tokens
        self._sets: list[TextData] = [context.texts[name] for name in names]
        sizes = np.asarray([float(one.ends[-1]) for one in self._sets])
        self._shares = sizes / sizes.sum()
        self._tokenizer = context.trainee.text_tokenizer(max_tokens)

    def __call__(self, step: int, count: int) -> PackedTexts:
        """`count` packed pieces; those that a text's end leaves with a single token are drawn again."""
        rng = self._context.rng(step)
        rows: list[np.ndarray] = []
        for _ in range(_TRIES):
            if len(rows) == count:
                return PackedTexts.of(rows).to(self._context.trainee.device)
            chosen = rng.choice(len(self._sets), size=count - len(rows), p=self._shares)
            pieces = [self._sets[i].piece(rng.random(), self._max_tokens) for i in chosen]
            rows += [ids for ids in self._tokenizer(pieces, Template()).ids if len(ids) > 2]
        names = ", ".join(one.name for one in self._sets)
        raise TrainingError(f"data: hardly a text of {names} has more than a token to learn from")


def texts_a_step(batch_tokens: int, max_tokens: int) -> int:
    """How many pieces fill a step's token budget."""
    return max(1, batch_tokens // max_tokens)
