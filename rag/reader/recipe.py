"""What a training of the reader is set to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class ReaderRecipe:
    """Train a span reader over a frozen encoder's cached states.

    Attributes:
        model: encoder folder; empty for decant-mini.
        start: folder of a reader whose weights are where training begins, of any encoder; empty for random ones.
        start_model: that reader's encoder, where it is another one: its states are put where the old ones were.
        questions: file of questions below the data folder.
        dev_articles: articles held out for development.
        paragraphs: paragraphs trained on; 0 for all.
        unanswerable: questions of other paragraphs for each own question of a paragraph.
        cut: own questions asked of the paragraph without the sentence that answers, for each.
        swapped: own questions with a thing in them exchanged so that nothing answers, for each; see `swapping.py`.
        max_tokens: longest paragraph trained on.
        batch_tokens: passage tokens of a step, each question counting its passage.
        calibration_questions: held-out questions that give the thresholds; 0 leaves it uncalibrated.
    """

    step: ClassVar[str] = "reader"
    seed: int = 0
    model: str = ""
    start: str = ""
    start_model: str = ""
    questions: str = "pairs/squad-train.jsonl.gz"
    dev_articles: int = 22
    paragraphs: int = 0
    unanswerable: float = 0.25
    cut: float = 0.1
    swapped: float = 0.0
    width: int = 128
    layers: int = 2
    dropout: float = 0.2
    max_tokens: int = 320
    batch_tokens: int = 6_400
    steps: int = 6_000
    learning_rate: float = 2e-3
    warmup_steps: int = 200
    checkpoint_steps: int = 100
    calibration_questions: int = 800
