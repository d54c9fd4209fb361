"""Training of the span reader on SQuAD-like questions; the encoder stays frozen, its states are encoded once.

Beside its own questions a passage is asked some of other passages of its article, whose right answer is none: what
retrieval will hand to the reader is mostly such passages.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ...embedder.encoder import Encoder
from ...embedder.training.run import Schedule, StepResult, train
from ..metrics import exact_match, f1
from .batch import pad, read
from .data import Questions, StateFile, read_questions, token_span
from .decode import best_spans
from .model import ReaderConfig, SpanReader
from .recipe import ReaderRecipe

log = logging.getLogger(__name__)
_POOL = 512


class Batches:
    """Which questions are asked of which passages at a step; depends on the seed and the step alone."""

    def __init__(self, questions: Questions, lengths: NDArray[np.int64], recipe: ReaderRecipe) -> None:
        self._recipe = recipe
        self._lengths = lengths
        usable = ~questions.dev
        self._by_passage: dict[int, list[int]] = {}
        for i in np.flatnonzero(usable).tolist():
            self._by_passage.setdefault(int(questions.passage_of[i]), []).append(i)
        by_article: dict[int, list[int]] = {}
        for passage in self._by_passage:
            if lengths[passage] <= recipe.max_tokens:
                by_article.setdefault(int(questions.articles[passage]), []).append(passage)
        self._passages = [passage for group in by_article.values() for passage in group]
        self._neighbours = {p: [o for o in group if o != p] for group in by_article.values() for p in group}
        self._batches = self._endless()
        self._made: list[list[tuple[int, int, bool]]] = []

    def __getitem__(self, step: int) -> list[tuple[int, int, bool]]:
        """(question, passage, whether the passage answers it) of a step."""
        while len(self._made) <= step:
            self._made.append(next(self._batches))
        return self._made[step]

    def _endless(self) -> Iterator[list[tuple[int, int, bool]]]:
        for epoch in count():
            yield from self._epoch(np.random.default_rng([self._recipe.seed, epoch]))

    def _epoch(self, rng: np.random.Generator) -> list[list[tuple[int, int, bool]]]:
        order = [self._passages[i] for i in rng.permutation(len(self._passages))]
        batches: list[list[tuple[int, int, bool]]] = []
        for start in range(0, len(order), _POOL):
            batch: list[tuple[int, int, bool]] = []
            for passage in sorted(order[start : start + _POOL], key=lambda p: int(self._lengths[p])):
                asked = self._asked(passage, rng)
                if batch and (len(batch) + len(asked)) * self._lengths[passage] > self._recipe.batch_tokens:
                    batches.append(batch)
                    batch = []
                batch = batch + asked
            batches.append(batch)
        return [batches[i] for i in rng.permutation(len(batches))]

    def _asked(self, passage: int, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
        asked = [(question, passage, True) for question in self._by_passage[passage]]
        others = self._neighbours[passage]
        for _ in range(rng.binomial(len(asked), self._recipe.unanswerable) if others else 0):
            pool = self._by_passage[others[rng.integers(len(others))]]
            asked.append((pool[rng.integers(len(pool))], passage, False))
        return asked


class Trainer:
    """Everything a run needs: data, states, the reader."""

    def __init__(self, encoder: Encoder, data: Path, folder: Path, recipe: ReaderRecipe) -> None:
        self.recipe, self.folder, self.encoder = recipe, folder, encoder
        self.questions = read_questions(
            data / recipe.questions, dev_articles=recipe.dev_articles, paragraphs=recipe.paragraphs, seed=recipe.seed
        )
        self.asked = StateFile.write(folder / "states" / "q", encoder, self.questions.texts, "query")
        self.passages = StateFile.write(folder / "states" / "p", encoder, self.questions.passages, "document")
        torch.manual_seed(recipe.seed)
        config = ReaderConfig(
            hidden=encoder.backbone.hidden_size,
            vocabulary=encoder.text_tokenizer.vocabulary_size,
            width=recipe.width,
            layers=recipe.layers,
            dropout=recipe.dropout,
        )
        self.reader = SpanReader(config)
        self.reader.folded.copy_(folded_ids(encoder))
        self.device = encoder.backbone.device
        self.reader.to(self.device)
        lengths = np.array([len(self.passages[i]) for i in range(len(self.passages))], np.int64)
        self.batches = Batches(self.questions, lengths, recipe)

    def loss(self, step: int) -> StepResult:
        """Mean cross-entropy of first and last tokens of a step's answers."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # dropout
        triples = [t for t in self.batches[step] if not t[2] or self._span(t[0], t[1]) is not None]
        places = {passage: i for i, passage in enumerate(dict.fromkeys(passage for _, passage, _ in triples))}
        pairs = pad(
            [self.passages[p] for p in places],
            [self.asked[q] for q, _, _ in triples],
            [places[passage] for _, passage, _ in triples],
        ).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            starts, ends = read(self.reader, pairs)
        null = starts.shape[1] - 1
        spans = [self._span(q, p) or (null, null) if own else (null, null) for q, p, own in triples]
        first, last = torch.tensor(spans, device=self.device).T
        return StepResult((F.cross_entropy(starts, first) + F.cross_entropy(ends, last)) / 2, pairs.tokens)

    def _span(self, question: int, passage: int) -> tuple[int, int] | None:
        return token_span(self.passages[passage].offsets, *self.questions.spans[question].tolist())

    def run(self) -> None:
        """Train, or go on where the last run stopped; write development scores."""
        schedule = Schedule(self.recipe.steps, self.recipe.warmup_steps, self.recipe.checkpoint_steps)
        self.reader.train()
        groups: list[dict[str, object]] = [{"params": list(self.reader.parameters()), "lr": self.recipe.learning_rate}]
        train(self.reader, groups, self.loss, schedule, self.folder)
        scores = self.dev_scores()
        log.info("development: %s", scores)
        (self.folder / "dev.json").write_text(json.dumps(scores, indent=2) + "\n")

    @torch.inference_mode()
    def dev_scores(self, limit: int = 1000) -> dict[str, float]:
        """Exact match and F1 on questions of the articles held out, each with its own paragraph."""
        self.reader.eval()
        rows = np.random.default_rng(0).permutation(np.flatnonzero(self.questions.dev))[:limit].tolist()
        rows.sort(key=lambda i: len(self.passages[int(self.questions.passage_of[i])]))
        exact, overlap, sure = 0.0, 0.0, 0.0
        for start in range(0, len(rows), 32):
            batch = rows[start : start + 32]
            owners = [int(self.questions.passage_of[i]) for i in batch]
            pairs = pad([self.passages[p] for p in owners], [self.asked[i] for i in batch], list(range(len(batch))))
            pairs = pairs.to(self.device)
            for i, owner, span in zip(batch, owners, best_spans(*read(self.reader, pairs)), strict=True):
                offsets = self.passages[owner].offsets
                text = self.questions.passages[owner][offsets[span.first, 0] : offsets[span.last, 1]]
                exact += exact_match(text, [self.questions.answers[i]])
                overlap += f1(text, [self.questions.answers[i]])
                sure += span.score > 0
        count = max(1, len(rows))
        return {"exact_match": exact / count, "f1": overlap / count, "answered": sure / count, "questions": len(rows)}


def folded_ids(encoder: Encoder) -> Tensor:
    """(V,) int32: for each token the smallest id of the same text without case and leading space."""
    size = encoder.text_tokenizer.vocabulary_size
    texts = [encoder.tokenizer.decode([i], skip_special_tokens=False).strip().casefold() for i in range(size)]
    first: dict[str, int] = {}
    # White space and parts of characters are told apart by their ids alone.
    whole = [bool(text) and "\ufffd" not in text for text in texts]
    ids = [first.setdefault(text, i) if fine else i for i, (text, fine) in enumerate(zip(texts, whole, strict=True))]
    return torch.tensor(ids, dtype=torch.int32)
