"""Training of the verifier on SQuAD-like questions: adapters in every linear layer of a decoder that stays as it is."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...embedder.encoder import Encoder
from ...embedder.training.run import Schedule, StepResult, train
from ...embedder.training.trainee import Trainee
from ...embedder.training.training_recipe import LoraSettings
from ..metrics import f1
from ..reader.adapter import SHIPPED, TrainedReader
from ..reader.calibrating import calibrate, judge
from ..reader.data import read_questions
from ..reader.decode import Span, best_spans
from .adapter import Verifier, save_calibration, save_verifier
from .model import Marks, SpanHead, read_pairs
from .pieces import Piece, Pieces
from .recipe import VerifierRecipe

log = logging.getLogger(__name__)
_AT_ONCE = 64


class Trainer:
    """Everything a run needs: pieces, the decoder with its adapters, the head."""

    def __init__(self, data: Path, folder: Path, recipe: VerifierRecipe, device: str | None = None) -> None:
        self.recipe, self.folder = recipe, folder
        self.encoder = encoder = Encoder.load(recipe.model or None, device=device, dtype="float32")
        self.marks = Marks.of(encoder)
        questions = read_questions(data / recipe.questions, dev_articles=recipe.dev_articles, seed=recipe.seed)
        self.pieces = Pieces.of(encoder, questions, recipe)
        torch.manual_seed(recipe.seed)
        lora = LoraSettings(rank=recipe.rank, alpha=recipe.alpha, dropout=0.0)
        self.trainee = Trainee(encoder, None, bfloat16=True, lora=lora)
        self.head = SpanHead(encoder.backbone.hidden_size).to(self.trainee.device)
        assert self.trainee.peft is not None
        self.adapters = self.trainee.peft
        self.trained = nn.ModuleDict({"model": self.adapters, "head": self.head})

    def logits(self, pieces: list[Piece]) -> tuple[Tensor, Tensor]:
        """Of first and last tokens, see `SpanHead.forward`."""
        pairs = [piece.pair for piece in pieces]
        return read_pairs(self.trainee.hidden, self.head, pairs, self.marks, self.trainee.device)

    def loss(self, step: int) -> StepResult:
        """Mean cross-entropy of first and last tokens of a step's answers."""
        pieces = self.pieces[step]
        starts, ends = self.logits(pieces)
        null = starts.shape[1] - 1
        first, last = torch.tensor([piece.span or (null, null) for piece in pieces], device=starts.device).T
        tokens = sum(len(piece.pair.row(self.marks)) for piece in pieces)
        return StepResult((F.cross_entropy(starts, first) + F.cross_entropy(ends, last)) / 2, tokens)

    def run(self) -> None:
        """Train, or go on where the last run stopped; write development scores and the verifier, calibrated."""
        schedule = Schedule(self.recipe.steps, self.recipe.warmup_steps, self.recipe.checkpoint_steps, "linear")
        weights = [p for p in self.trained.parameters() if p.requires_grad]
        train(self.trained, [{"params": weights, "lr": self.recipe.learning_rate}], self.loss, schedule, self.folder)
        folder = self.folder / "adapter"
        save_verifier(self.encoder, self.adapters, self.head, self.recipe.tokens, folder)
        report: dict[str, object] = {"right_piece": self.dev_scores()}
        if self.recipe.calibration_questions:
            encoder = Encoder.load(self.encoder.path, device=self.trainee.device)
            trained = TrainedReader.load(Path(self.recipe.reader) if self.recipe.reader else SHIPPED, encoder)
            verifier = Verifier.load(folder, encoder)
            count = self.recipe.calibration_questions
            calibration, rows = calibrate(
                judge(trained, encoder, self.pieces.questions, count, self.pieces.others, verifier)
            )
            save_calibration(folder, calibration)
            report["thresholds"] = [asdict(row) for row in rows]
        log.info("development: %s", report["right_piece"])
        (self.folder / "dev.json").write_text(json.dumps(report, indent=2) + "\n")

    @torch.inference_mode()
    def dev_scores(self, limit: int = 600) -> dict[str, float]:
        """What it makes of the right pieces of held-out articles.

        Returns:
            F1, the share of questions that it would answer, and of those in their other form the share that it would
            refuse, by its own odds and where it answered 80 % of the others; nothing where there are no such pieces.
        """
        pieces = self.pieces
        rows = np.random.default_rng(0).permutation(np.flatnonzero(pieces.questions.dev))[:limit].tolist()
        own = [piece for row in rows if (piece := pieces.own(row))]
        changed = [(row, pieces.swapped[row]) for row in rows if row in pieces.swapped]
        other = [piece for row, asked in changed if (piece := pieces.own(row, other=asked))]
        right, wrong = self._spans(own), self._spans(other)
        if not own or not other:
            return {"questions": len(own)}
        overlaps = [
            f1(piece.text(span.first, span.last), [piece.text(*piece.span)])
            for piece, span in zip(own, right, strict=True)
            if piece.span
        ]
        sure, unsure = (np.array([span.score for span in spans]) for spans in (right, wrong))
        return {
            "f1": float(np.mean(overlaps)),
            "answered": float(np.mean(sure > 0)),
            "swapped_refused": float(np.mean(unsure <= 0)),
            "swapped_refused_at_80": float(np.mean(unsure < np.quantile(sure, 0.2))),
            "questions": len(own),
        }

    def _spans(self, pieces: list[Piece]) -> list[Span]:
        batches = (pieces[start : start + _AT_ONCE] for start in range(0, len(pieces), _AT_ONCE))
        return [span for batch in batches for span in best_spans(*self.logits(batch))]
