"""Pairs drawn for a step, tokenised with the encoder's prompts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError, ModelError
from ...examples import tokenize_each
from ...spec import INSTRUCTION_SLOT
from ...tokenization import TextTokenizer
from ..data import PairData, TrainingPair, group_of
from ..settings import RecipeError
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
    """A step's texts and how they belong together.

    Attributes:
        parts: the texts' tokens, cut into forwards.
        candidates: who answers whom.
        texts: as they were given; queries first, then positives, then negatives.
        kinds: which of the encoder's prompts each of them got.
        tokens: of all texts together.
    """

    parts: list[Chunk]
    candidates: Candidates
    texts: list[str]
    kinds: list[str]
    tokens: int

    @property
    def query_texts(self) -> list[str]:
        """The queries, as they were given."""
        return self.texts[: self.candidates.queries]

    @property
    def passage_texts(self) -> list[str]:
        """The candidates, as they were given."""
        return self.texts[self.candidates.queries :]


class PairBatches:
    """Draws batches from one data set each, or from all of them where the recipe blends."""

    def __init__(self, settings: PairSettings, context: Context, names: list[str]) -> None:
        """Check prompts and prepare tokenizers.

        Raises:
            RecipeError: a data set asks for a prompt or instruction the encoder does not have, or one that leaves no
                room for a text.
        """
        self._settings, self._context = settings, context
        self._sets = [context.pairs[name] for name in names]
        self._queries, self._passages = self._tokenizer("query_tokens"), self._tokenizer("passage_tokens")
        for one in self._sets:
            self._check(one)
        if not getattr(settings, "in_batch_negatives", True):
            mined = settings.negatives > 0 and all(any(p.negatives for p in one.pairs) for one in self._sets)
            context.require(mined, "negatives", "are all there is without in_batch_negatives: there is none")
        weights = [one.settings.weight or len(one.pairs) ** _FLATTEN for one in self._sets]
        self._shares = np.asarray(weights, np.float64) / sum(weights)

    def _tokenizer(self, key: str) -> TextTokenizer:
        try:
            return self._context.trainee.text_tokenizer(getattr(self._settings, key))
        except ModelError as error:
            raise RecipeError(f"{self._context.field}.{key}: {error}") from error

    def _check(self, one: PairData) -> None:
        given, prompts = one.settings, self._context.trainee.spec.prompts
        for kind in (given.query_kind, given.passage_kind):
            self._context.require(kind in prompts, "data", f"the encoder has no prompt of kind {kind!r}")
        if given.instruction is not None and INSTRUCTION_SLOT not in prompts[given.query_kind]:
            raise RecipeError(
                f"data.{one.name}.instruction: the encoder's {given.query_kind} prompt has no place for it: write "
                f"{INSTRUCTION_SLOT} there"
            )
        for key, kind in (("query_tokens", given.query_kind), ("passage_tokens", given.passage_kind)):
            try:
                self._tokenised(one, ["a"], query=key == "query_tokens")
            except InputError:
                self._context.require(False, key, f"the {kind} prompt leaves no room for a text")

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
        all_texts: list[str] = []
        kinds: list[str] = []
        for role in ("query", "positive", "negative"):
            at = 0
            for one, some in drawn:
                negatives = [text for texts in chosen[at : at + len(some)] for text in texts]
                at += len(some)
                texts = negatives if role == "negative" else [getattr(pair, role) for pair in some]
                ids, pool_from = self._tokenised(one, texts, query=role == "query")
                all_texts += texts
                kinds += [one.settings.query_kind if role == "query" else one.settings.passage_kind] * len(texts)
                rows += ids
                starts.append(pool_from)
        device = self._context.trainee.device
        return PairBatch(
            chunks(rows, np.concatenate(starts), self._settings.chunk_tokens, device),
            candidates(pairs, chosen, device),
            all_texts,
            kinds,
            sum(map(len, rows)),
        )

    def _tokenised(
        self, one: PairData, texts: list[str], *, query: bool
    ) -> tuple[list[NDArray[np.int32]], NDArray[np.int32]]:
        spec, kind = self._context.trainee.spec, one.settings.query_kind if query else one.settings.passage_kind
        instruction = one.settings.instruction if INSTRUCTION_SLOT in spec.prompts[kind] else None
        tokenizer, index = self._queries if query else self._passages, self._context.trainee.encoder.example_index
        if index is None or not spec.retrieves(kind):
            found = tokenizer(texts, spec.template(kind, instruction))
        else:
            examples = [index.for_query(text) for text in texts]
            found = tokenize_each(tokenizer, spec, texts, examples, (kind, instruction, "end"), 0)
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
