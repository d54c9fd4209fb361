"""Training of the span reader on SQuAD-like questions; the encoder stays frozen, its states are encoded once."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from ...embedder.encoder import Encoder
from ...embedder.training.run import Schedule, StepResult, train
from ..metrics import exact_match, f1
from ..states import States
from .adapter import TrainedReader, begin_from, weights_digest
from .batch import pad, read
from .batches import Asked, Batches, nearest_strangers
from .calibrating import Row, calibrate, judge
from .confidence import Calibration
from .data import StateFile, read_questions, token_span
from .decode import best_spans
from .model import ReaderConfig, SpanReader
from .moving import move
from .recipe import ReaderRecipe
from .swapping import altered
from .traits import sentence_numbers, token_traits

log = logging.getLogger(__name__)
_MOVING_TEXTS = 400


class Trainer:
    """Everything a run needs: data, states, the reader."""

    def __init__(self, encoder: Encoder, data: Path, folder: Path, recipe: ReaderRecipe) -> None:
        self.recipe, self.folder, self.encoder = recipe, folder, encoder
        self.questions = read_questions(
            data / recipe.questions, dev_articles=recipe.dev_articles, paragraphs=recipe.paragraphs, seed=recipe.seed
        )
        self.asked = StateFile.write(folder / "states" / "q", encoder, self.questions.texts, "query")
        self.passages = StateFile.write(folder / "states" / "p", encoder, self.questions.passages, "document")
        self.swapped = altered(self.questions, recipe.seed) if recipe.swapped else [""] * len(self.questions.texts)
        kept = [i for i, text in enumerate(self.swapped) if text and not self.questions.dev[i]]
        # Places in the file, by question; held-out ones are only asked of a store.
        self.swapped_at = {question: place for place, question in enumerate(kept)}
        if kept:
            texts = [self.swapped[i] for i in kept]
            self.asked_swapped = StateFile.write(folder / "states" / "s", encoder, texts, "query")
        torch.manual_seed(recipe.seed)
        config = ReaderConfig(
            hidden=encoder.backbone.hidden_size,
            vocabulary=encoder.text_tokenizer.vocabulary_size,
            width=recipe.width,
            layers=recipe.layers,
            dropout=recipe.dropout,
        )
        self.reader = SpanReader(config)
        if recipe.start:
            self._begin()
        folded, traits = token_traits(encoder)
        self.reader.folded.copy_(folded)
        self.reader.traits.copy_(traits)
        self.traits = traits
        self.device = encoder.backbone.device
        self.reader.to(self.device)
        lengths = np.array([len(self.passages[i]) for i in range(len(self.passages))], np.int64)
        strangers = nearest_strangers(self.questions, self.asked, self.passages, folded)
        self.batches = Batches(self.questions, lengths, strangers, self.swapped_at.keys(), recipe)

    def _begin(self) -> None:
        folder = Path(self.recipe.start)
        if left := begin_from(self.reader, folder):
            log.info("weights that begin at random: %s", ", ".join(left))
        if self.recipe.start_model:
            old = Encoder.load(self.recipe.start_model, device=str(self.encoder.backbone.device))
            asked = self.questions
            rows = np.random.default_rng(self.recipe.seed).permutation(np.flatnonzero(~asked.dev))[:_MOVING_TEXTS]
            texts = [(asked.passages[int(asked.passage_of[i])], "document") for i in rows]
            texts += [(asked.texts[int(i)], "query") for i in rows]
            share = move(self.reader, TrainedReader.load(folder, old).reader, old, self.encoder, texts)
            log.info("states of the new encoder explain %.1f %% of what the reader made of the old ones", 100 * share)

    def loss(self, step: int) -> StepResult:
        """Mean cross-entropy of first and last tokens of a step's answers."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # dropout
        chosen = [(asked, *found) for asked in self.batches[step] if (found := self.reading(asked)) is not None]
        places: dict[tuple[int, int], int] = {}
        passages: list[States] = []
        passage_of: list[int] = []
        for asked, states, _ in chosen:
            key = (asked.passage, asked.question if asked.cut else -1)
            if key not in places:
                places[key] = len(passages)
                passages.append(states)
            passage_of.append(places[key])
        pairs = pad(passages, [self._question(asked) for asked, *_ in chosen], passage_of).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            starts, ends = read(self.reader, pairs)
        null = starts.shape[1] - 1
        first, last = torch.tensor([span or (null, null) for *_, span in chosen], device=self.device).T
        return StepResult((F.cross_entropy(starts, first) + F.cross_entropy(ends, last)) / 2, pairs.tokens)

    def _question(self, asked: Asked) -> States:
        if asked.swapped:
            return self.asked_swapped[self.swapped_at[asked.question]]
        return self.asked[asked.question]

    def reading(self, asked: Asked) -> tuple[States, tuple[int, int] | None] | None:
        """What is read and where the answer is in it, None for nowhere; None if there is nothing to learn from."""
        states = self.passages[asked.passage]
        if not asked.answers and not asked.cut:
            return states, None
        span = token_span(states.offsets, *self.questions.spans[asked.question].tolist())
        if span is None:
            return None
        if not asked.cut:
            return states, span
        rest = self._without(states, span)
        text = self.questions.passages[asked.passage]
        left = "".join(text[start:end] for start, end in rest.offsets.tolist())
        answer = "".join(self.questions.answers[asked.question].split())
        return None if not len(rest) or answer in "".join(left.split()) else (rest, None)

    def _without(self, states: States, span: tuple[int, int]) -> States:
        """The states without the sentences of a span."""
        numbers = sentence_numbers(self.traits[torch.from_numpy(states.ids).long()][None])[0].numpy()
        kept = (numbers < numbers[span[0]]) | (numbers > numbers[span[1]])
        return States(states.ids[kept], states.offsets[kept], states.hidden[kept])

    def run(self) -> None:
        """Train, or go on where the last run stopped; write development scores and the reader, calibrated."""
        schedule = Schedule(self.recipe.steps, self.recipe.warmup_steps, self.recipe.checkpoint_steps, "linear")
        self.reader.train()
        groups: list[dict[str, object]] = [{"params": list(self.reader.parameters()), "lr": self.recipe.learning_rate}]
        train(self.reader, groups, self.loss, schedule, self.folder)
        scores = self.dev_scores()
        log.info("development: %s", scores)
        trained = TrainedReader(self.reader, Calibration(), weights_digest(self.encoder))
        rows: list[Row] = []
        if self.recipe.calibration_questions:
            judged = judge(trained, self.encoder, self.questions, self.recipe.calibration_questions, self.swapped)
            calibration, rows = calibrate(judged)
            trained = replace(trained, calibration=calibration)
        trained.save(self.folder / "adapter")
        report = {"gold_passage": scores, "thresholds": [asdict(row) for row in rows]}
        (self.folder / "dev.json").write_text(json.dumps(report, indent=2) + "\n")

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
