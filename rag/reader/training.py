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
from .batches import Batches, nearest_strangers
from .calibrating import Row, calibrate, judge
from .confidence import Calibration
from .data import read_questions
from .decode import best_spans
from .generator import ReaderGenerator
from .material import Material
from .model import ReaderConfig, SpanReader
from .moving import move
from .reading import Reading
from .recipe import ReaderRecipe
from .swapping import altered
from .traits import token_traits

log = logging.getLogger(__name__)
_MOVING_TEXTS = 400


class Trainer:
    """Everything a run needs: data, states, the reader."""

    def __init__(self, encoder: Encoder, data: Path, folder: Path, recipe: ReaderRecipe) -> None:
        self.recipe, self.folder, self.encoder = recipe, folder, encoder
        self.questions = read_questions(
            data / recipe.questions, dev_articles=recipe.dev_articles, paragraphs=recipe.paragraphs, seed=recipe.seed
        )
        swapped = altered(self.questions, recipe.seed) if recipe.swapped else []
        self.material = Material.encode(encoder, self.questions, swapped, folder / "states")
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
        self.device = encoder.backbone.device
        self.reader.to(self.device)
        passages = self.material.passages
        lengths = np.array([len(passages[i]) for i in range(len(passages))], np.int64)
        strangers = nearest_strangers(self.questions, self.material.asked, passages, folded)
        self.batches = Batches(self.questions, lengths, strangers, self.material.swapped_at.keys(), recipe)

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
        chosen = [(a, *found) for a in self.batches[step] if (found := self.material.reading(a)) is not None]
        places: dict[tuple[int, int], int] = {}
        passages: list[States] = []
        passage_of: list[int] = []
        for asked, states, _ in chosen:
            key = (asked.passage, asked.question if asked.cut else -1)
            if key not in places:
                places[key] = len(passages)
                passages.append(states)
            passage_of.append(places[key])
        pairs = pad(passages, [self.material.question(asked) for asked, *_ in chosen], passage_of).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16):
            starts, ends = read(self.reader, pairs)
        null = starts.shape[1] - 1
        first, last = torch.tensor([span or (null, null) for *_, span in chosen], device=self.device).T
        return StepResult((F.cross_entropy(starts, first) + F.cross_entropy(ends, last)) / 2, pairs.tokens)

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
            asked, swapped = self.recipe.calibration_questions, self.material.swapped
            reads = trained
            judged = judge(
                lambda cache: ReaderGenerator(Reading(self.encoder, reads, cache)),
                self.encoder, self.questions, asked, swapped,
            )  # fmt: skip
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
        passages, asked = self.material.passages, self.material.asked
        rows.sort(key=lambda i: len(passages[int(self.questions.passage_of[i])]))
        exact, overlap, sure = 0.0, 0.0, 0.0
        for start in range(0, len(rows), 32):
            batch = rows[start : start + 32]
            owners = [int(self.questions.passage_of[i]) for i in batch]
            pairs = pad([passages[p] for p in owners], [asked[i] for i in batch], list(range(len(batch))))
            pairs = pairs.to(self.device)
            for i, owner, span in zip(batch, owners, best_spans(*read(self.reader, pairs)), strict=True):
                offsets = passages[owner].offsets
                text = self.questions.passages[owner][offsets[span.first, 0] : offsets[span.last, 1]]
                exact += exact_match(text, [self.questions.answers[i]])
                overlap += f1(text, [self.questions.answers[i]])
                sure += span.score > 0
        count = max(1, len(rows))
        return {"exact_match": exact / count, "f1": overlap / count, "answered": sure / count, "questions": len(rows)}
