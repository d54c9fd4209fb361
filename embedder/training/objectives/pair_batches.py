"""Pairs drawn for a step, tokenised with the encoder's prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...spec import INSTRUCTION_SLOT
from ..data import PairData, TrainingPair, group_of
from ..training_recipe import PairSettings
from .context import Context
from .gradcache import Chunk, chunks

# As in LLM2Vec's and most others' mixes, big data sets give way a little to small ones.
_FLATTEN = 0.75


@dataclass(frozen=True)
class Candidates:
    """Which passage answers which query.

    Attributes:
        queries: number of queries N; their positives are the candidates 0 ... N - 1.
        owner: (candidates,) int64, the query a candidate was drawn for.
        known: (N, candidates) bool, True where a candidate answers the query though it was drawn for another one:
            it equals the query's positive, or belongs to an equal query.
    """

    queries: int
    owner: Tensor
    known: Tensor


@dataclass(frozen=True)
class PairBatch:
    """A step's texts, queries first, then positives, then negatives, and how they belong together."""

    parts: list[Chunk]
    candidates: Candidates
    query_texts: list[str]
    passage_texts: list[str]
    tokens: int


class PairBatches:
    """Draws batches from one data set each, or from all of them where the recipe blends."""

    def __init__(self, settings: PairSettings, context: Context, names: list[str]) -> None:
        """Check prompts and prepare tokenizers.

        Raises:
            RecipeError: a data set names a prompt the encoder does not have.
        """
        self._settings, self._context = settings, context
        self._sets = [context.pairs[name] for name in names]
        trainee = context.trainee
        self._queries = trainee.text_tokenizer(settings.query_tokens)
        self._passages = trainee.text_tokenizer(settings.passage_tokens)
        for one in self._sets:
            for kind in (one.settings.query_kind, one.settings.passage_kind):
                context.require(kind in trainee.spec.prompts, "data", f"the encoder has no prompt of kind {kind!r}")
        weights = [one.settings.weight or len(one.pairs) ** _FLATTEN for one in self._sets]
        self._shares = np.asarray(weights, np.float64) / sum(weights)

    def __call__(self, step: int) -> PairBatch:
        """The batch of a step."""
        rng = self._context.rng(step)
        size = self._settings.batch_pairs
        if self._settings.blended:
            counts = rng.multinomial(size, self._shares)
            drawn = [(one, self._draw(one, int(n), rng)) for one, n in zip(self._sets, counts, strict=True) if n]
        else:
            one = self._sets[int(rng.choice(len(self._sets), p=self._shares))]
            drawn = [(one, self._draw(one, size, rng))]
        return self._batch(drawn, rng)

    def _draw(self, one: PairData, count: int, rng: np.random.Generator) -> list[TrainingPair]:
        rows = rng.choice(len(one.pairs), size=min(count, len(one.pairs)), replace=False)
        return [one.pairs[row] for row in rows]

    def _batch(self, drawn: list[tuple[PairData, list[TrainingPair]]], rng: np.random.Generator) -> PairBatch:
        pairs = [pair for _, some in drawn for pair in some]
        chosen = [_some(pair.negatives, self._settings.negatives, rng) for pair in pairs]
        rows: list[NDArray[np.int32]] = []
        starts: list[NDArray[np.int32]] = []
        for role in ("query", "positive", "negative"):
            at = 0
            for one, some in drawn:
                negatives = [text for texts in chosen[at : at + len(some)] for text in texts]
                at += len(some)
                texts = negatives if role == "negative" else [getattr(pair, role) for pair in some]
                ids, pool_from = self._tokenised(one, texts, query=role == "query")
                rows += ids
                starts.append(pool_from)
        device = self._context.trainee.device
        return PairBatch(
            chunks(rows, np.concatenate(starts), self._settings.chunk_tokens, device),
            candidates(pairs, chosen, device),
            [pair.query for pair in pairs],
            [pair.positive for pair in pairs] + [text for texts in chosen for text in texts],
            sum(map(len, rows)),
        )

    def _tokenised(
        self, one: PairData, texts: list[str], *, query: bool
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32]]:
        spec, kind = self._context.trainee.spec, one.settings.query_kind if query else one.settings.passage_kind
        instruction = one.settings.instruction if INSTRUCTION_SLOT in spec.prompts[kind] else None
        template = spec.template(kind, instruction)
        found = (self._queries if query else self._passages)(texts, template)
        return found.ids, found.pool_from


def candidates(pairs: list[TrainingPair], negatives: list[list[str]], device: torch.device) -> Candidates:
    """Works out owners and known answers of a batch's passages."""
    count = len(pairs)
    owner = np.asarray([*range(count), *(i for i, texts in enumerate(negatives) for _ in texts)])
    passages = [pair.positive for pair in pairs] + [text for texts in negatives for text in texts]
    groups = np.asarray([group_of(text) for text in passages])
    asked = np.asarray([group_of(pair.query) for pair in pairs])
    known = groups[None, :] == groups[:count, None]
    known[:, :count] |= asked[:, None] == asked[None, :]
    known[np.arange(count), np.arange(count)] = False
    return Candidates(count, torch.from_numpy(owner).to(device), torch.from_numpy(known).to(device))


def _some(texts: tuple[str, ...], count: int, rng: np.random.Generator) -> list[str]:
    if len(texts) <= count:
        return list(texts)
    return [texts[i] for i in sorted(rng.choice(len(texts), size=count, replace=False))]
