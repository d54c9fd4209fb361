"""Reranking: how well each text answers a question, by a cross-encoder or by the served encoder's own vectors.

Every way goes through a queue: pairs through the cross-encoder's, texts through the encoder's. Scores come twice: raw,
as the model gives them (a logit; a cosine), and between 0 and 1, by the logistic function or as (1 + cosine) / 2; both
keep the order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..embedder.tokenization import Truncate
from .caller import Caller
from .engine import DENSE, STATES, EmbedOptions, Encoded
from .models import Embedded, ServedModel
from .queue import Priority


@dataclass(frozen=True)
class Scores:
    """How well N texts answer one question.

    Attributes:
        raw: (N,) float64, as the model gives them.
        unit: (N,) float64, in [0, 1], in the same order.
        truncated: for each text, whether it or the question was cut.
        tokens: encoded for all of them.
    """

    raw: NDArray[np.float64]
    unit: NDArray[np.float64]
    truncated: list[bool]
    tokens: int
    tokenize_seconds: float
    queue_seconds: float
    encode_seconds: float

    def order(self, top_n: int | None = None) -> list[int]:
        """Indices of the texts, best first, equal scores in the order given; at most `top_n`."""
        return np.argsort(-self.raw, kind="stable")[:top_n].tolist()


class Reranker(Protocol):
    """Scores texts for a question.

    Attributes:
        name: what clients call it.
        max_texts: how many it takes at once.
    """

    @property
    def name(self) -> str:
        """What clients call it."""
        ...

    @property
    def max_texts(self) -> int:
        """Texts it takes at once."""
        ...

    async def scores(self, query: str, texts: Sequence[str], truncate: Truncate, caller: Caller) -> Scores:
        """Score texts for a question; raises InputError for the first text that cannot be, ServiceError."""
        ...


class EncoderReranker:
    """An encoder as a reranker: the cosine of two vectors, or late interaction between their tokens.

    Late interaction (Khattab and Zaharia, 2020): for each token of the question the best cosine among the text's
    tokens, averaged over the question's tokens. Prompts that the model does not pool take no part.
    """

    def __init__(self, model: ServedModel, *, late: bool) -> None:
        self._model = model
        self._late = late

    @property
    def name(self) -> str:
        """The encoder's."""
        return self._model.name

    @property
    def max_texts(self) -> int:
        """The encoder's."""
        return self._model.max_texts

    async def scores(self, query: str, texts: Sequence[str], truncate: Truncate, caller: Caller) -> Scores:
        """See `Reranker.scores`."""
        self._model.check_count(len(texts))
        outputs = (STATES,) if self._late else (DENSE,)
        asked, made = await asyncio.gather(
            self._embed([query], "query", truncate, outputs, caller),
            self._embed(texts, "document", truncate, outputs, caller),
        )
        [question], answers = encoded(asked), encoded(made)
        compare = late_interaction if self._late else cosine
        # Late interaction multiplies token by token: too long for the event loop.
        raw = await asyncio.to_thread(lambda: np.array([compare(question, answer) for answer in answers]))
        return Scores(
            raw,
            (1 + raw) / 2,
            [answer.truncated or question.truncated for answer in answers],
            asked.tokens + made.tokens,
            max(asked.tokenize_seconds, made.tokenize_seconds),
            max(asked.queue_seconds, made.queue_seconds),
            max(asked.encode_seconds, made.encode_seconds),
        )

    async def _embed(
        self, texts: Sequence[str], kind: str, truncate: Truncate, outputs: tuple[str, ...], caller: Caller
    ) -> Embedded:
        options = EmbedOptions(kind=kind, truncate=truncate, outputs=outputs, normalize=True)
        return await self._model.embed(texts, options, caller, Priority.QUERY)


def encoded(made: Embedded) -> list[Encoded]:
    """Every item of a call that has no place for a text's own error: the first one is raised."""
    items: list[Encoded] = []
    for item in made.items:
        if not isinstance(item, Encoded):
            raise item
        items.append(item)
    return items


def cosine(question: Encoded, answer: Encoded) -> float:
    """Cosine of two unit vectors."""
    return float(np.clip(question.vector @ answer.vector, -1, 1))


def late_interaction(question: Encoded, answer: Encoded) -> float:
    """The mean over the question's tokens of the best cosine among the answer's."""
    return float((_unit(question) @ _unit(answer).T).max(axis=1).mean())


def _unit(item: Encoded) -> NDArray[np.float32]:
    assert item.states is not None
    states = item.states[min(item.pool_from, len(item.states) - 1) :]
    return states / np.maximum(np.linalg.norm(states, axis=1, keepdims=True), 1e-12)
