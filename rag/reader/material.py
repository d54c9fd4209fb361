"""What a training reads: the states of questions, of their other forms and of passages, each encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...embedder.encoder import Encoder
from ..states import States
from .batches import Asked
from .data import Questions, StateFile, token_span
from .traits import sentence_numbers, token_traits


@dataclass(frozen=True)
class Material:
    """Questions and passages of `data` as an encoder sees them.

    Attributes:
        data: their texts.
        asked, passages: states, in the order of `data`.
        swapped: (N,) each question's other form, empty where it has none; see `swapping.py`.
        swapped_at: by question, where the states of its other form are; held-out ones are only asked of a store.
        asked_swapped: those states; None where there are none.
        traits: of all tokens, see `token_traits`.
    """

    data: Questions
    asked: StateFile
    passages: StateFile
    swapped: Sequence[str]
    swapped_at: dict[int, int]
    asked_swapped: StateFile | None
    traits: Tensor

    @classmethod
    def encode(cls, encoder: Encoder, data: Questions, swapped: Sequence[str], folder: Path) -> Material:
        """Encode what is not in the folder yet; `swapped` may be empty."""
        asked = StateFile.write(folder / "q", encoder, data.texts, "query")
        passages = StateFile.write(folder / "p", encoder, data.passages, "document")
        swapped = swapped or [""] * len(data.texts)
        kept = [i for i, text in enumerate(swapped) if text and not data.dev[i]]
        others = StateFile.write(folder / "s", encoder, [swapped[i] for i in kept], "query") if kept else None
        places = {question: place for place, question in enumerate(kept)}
        return cls(data, asked, passages, swapped, places, others, token_traits(encoder)[1])

    def question(self, asked: Asked) -> States:
        """States of a question in the form in which it is asked."""
        if asked.swapped and self.asked_swapped is not None:
            return self.asked_swapped[self.swapped_at[asked.question]]
        return self.asked[asked.question]

    def reading(self, asked: Asked) -> tuple[States, tuple[int, int] | None] | None:
        """What is read and where the answer is in it, None for nowhere; None if there is nothing to learn from."""
        states = self.passages[asked.passage]
        if not asked.answers and not asked.cut:
            return states, None
        span = token_span(states.offsets, *self.data.spans[asked.question].tolist())
        if span is None:
            return None
        if not asked.cut:
            return states, span
        rest = self._without(states, span)
        text = self.data.passages[asked.passage]
        left = "".join(text[start:end] for start, end in rest.offsets.tolist())
        answer = "".join(self.data.answers[asked.question].split())
        return None if not len(rest) or answer in "".join(left.split()) else (rest, None)

    def _without(self, states: States, span: tuple[int, int]) -> States:
        """The states without the sentences of a span."""
        numbers = sentence_numbers(self.traits[torch.from_numpy(states.ids).long()][None])[0].numpy()
        kept = (numbers < numbers[span[0]]) | (numbers > numbers[span[1]])
        return States(states.ids[kept], states.offsets[kept], states.hidden[kept])
