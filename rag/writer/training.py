"""Training of the writer: the words that answer, from what search finds, or that there are none."""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from ...embedder.encoder import Encoder
from ...embedder.training.run import Schedule, StepResult, train
from ..metrics import exact_match, f1
from ..reader.adapter import SHIPPED, TrainedReader, weights_digest
from ..reader.calibrating import Row, calibrate, judge
from ..reader.confidence import Calibration
from ..reader.data import read_questions
from ..reader.decode import MAX_TOKENS
from ..reader.material import Material
from ..reader.swapping import altered
from ..xc.config import XcConfig, rope_theta
from ..xc.decoder import XcDecoder
from .adapter import TrainedWriter, decoder_of
from .examples import Examples, search
from .generator import CopyGenerator
from .lit import ODDS, light
from .model import CopyWriter
from .recipe import WriterRecipe
from .search import write

log = logging.getLogger(__name__)


class WriterTrainer:
    """Everything a run needs: data, states, what was found, the writer."""

    def __init__(self, encoder: Encoder, data: Path, folder: Path, recipe: WriterRecipe) -> None:
        """Read, encode and search for what is not in the folder yet.

        Raises:
            AnswerError: there are no questions.
            GeneratorError: the encoder cannot serve as a decoder, or there is no reader for it.
        """
        self.recipe, self.folder, self.encoder = recipe, folder, encoder
        self.device = encoder.backbone.device
        reader = TrainedReader.load(Path(recipe.reader) if recipe.reader else SHIPPED, encoder).reader
        base = decoder_of(encoder)
        questions = read_questions(
            data / recipe.questions, dev_articles=recipe.dev_articles, paragraphs=recipe.paragraphs, seed=recipe.seed
        )
        swapped = altered(questions, recipe.seed) if recipe.swapped else []
        self.material = Material.encode(encoder, questions, swapped, folder / "states")
        rows = np.random.default_rng(recipe.seed).permutation(np.flatnonzero(~questions.dev))[: recipe.asked].tolist()
        found = search(encoder, questions, rows, recipe.passages, folder / "found")
        self.examples = Examples(self.material, rows, found, recipe)
        torch.manual_seed(recipe.seed)
        config = XcConfig(
            decoder_layers=int(base.config.num_hidden_layers),
            decoder_width=int(base.config.hidden_size),
            context_width=encoder.backbone.hidden_size + reader.config.width + ODDS + 1,
            blocks=recipe.blocks,
            stride=recipe.stride,
            hidden=recipe.hidden,
            heads=recipe.heads,
            kv_heads=recipe.heads,
            inner=recipe.inner,
            dropout=recipe.dropout,
            gate=False,
            eps=float(base.config.rms_norm_eps),
            rope_theta=rope_theta(base.config),
        )
        self.writer = CopyWriter(XcDecoder(base, config), reader.requires_grad_(True)).to(self.device)

    def loss(self, step: int) -> StepResult:
        """Mean negative log-probability of a step's answers."""
        torch.manual_seed(self.recipe.seed * 1_000_003 + step)  # dropout
        batch = self.examples.batch(step)
        with torch.autocast(self.device.type, torch.bfloat16):
            lit = light(self.writer.reader, [e.asked for e in batch], [e.passages for e in batch])
            prompts = [self.writer.prompt(e.asked.ids.tolist()) for e in batch]
            lost = self.writer(lit, prompts, [e.target[:MAX_TOKENS] for e in batch])
        return StepResult(lost.mean(), sum(lit.lengths))

    def run(self) -> None:
        """Train, or go on where the last run stopped; write development scores and the writer, calibrated."""
        recipe, writer = self.recipe, self.writer
        writer.train()
        rate, head = recipe.learning_rate, writer.head
        scalars = [head.odds, head.rank]
        matrices = [p for name, p in head.named_parameters() if name not in ("odds", "rank")]
        groups: list[dict[str, object]] = [
            {"params": [*writer.decoder.cross_attn_layers.parameters(), *matrices], "lr": rate},
            {"params": list(writer.reader.parameters()), "lr": rate * recipe.reader_rate},
            {"params": scalars, "lr": rate * recipe.scalar_rate},
        ]
        schedule = Schedule(recipe.steps, recipe.warmup_steps, recipe.checkpoint_steps, "linear")
        train(writer, groups, self.loss, schedule, self.folder)
        writer.eval()
        scores = self.dev_scores()
        log.info("development: %s", scores)
        trained = TrainedWriter(writer, Calibration(), recipe.passages, weights_digest(self.encoder))
        rows: list[Row] = []
        if recipe.calibration_questions:
            material, asked = self.material, recipe.calibration_questions
            judged = judge(
                lambda cache: CopyGenerator(self.encoder, trained, cache),
                self.encoder, material.data, asked, material.swapped,
            )  # fmt: skip
            calibration, rows = calibrate(judged)
            trained = replace(trained, calibration=calibration)
        trained.save(self.folder / "adapter", recipe.model or "decant-mini")
        report = {"gold_passage": scores, "thresholds": [asdict(row) for row in rows]}
        (self.folder / "dev.json").write_text(json.dumps(report, indent=2) + "\n")

    @torch.inference_mode()
    def dev_scores(self, limit: int = 400) -> dict[str, float]:
        """Exact match and F1 on questions of the articles held out, each with its own paragraph."""
        data, material = self.material.data, self.material
        rows = np.random.default_rng(0).permutation(np.flatnonzero(data.dev))[:limit].tolist()
        exact, overlap = 0.0, 0.0
        for row in rows:
            own, asked = int(data.passage_of[row]), material.asked[row]
            states = material.passages[own]
            runs, _ = write(self.writer, light(self.writer.reader, [asked], [[states]]), asked.ids.tolist())
            text = data.passages[own][states.offsets[runs[0].first, 0] : states.offsets[runs[0].last, 1]]
            exact += exact_match(text, [data.answers[row]])
            overlap += f1(text, [data.answers[row]])
        count = max(1, len(rows))
        return {"exact_match": exact / count, "f1": overlap / count, "questions": len(rows)}
