"""What a training of the verifier is set to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class VerifierRecipe:
    """Train adapters and a head that read a question and a piece of a passage together.

    Attributes:
        model: encoder folder; empty for decant-mini.
        questions: file of questions below the data folder.
        dev_articles: articles held out for development; those of `ReaderRecipe` where number and seed agree.
        strangers: share of pairs whose passage is another of the article, near to the question.
        cut: share whose passage lacks the sentence that answers.
        swapped: share whose question has a thing in it exchanged so that nothing answers; see `reader/swapping.py`.
        rank, alpha: of the adapters, on all linear layers.
        tokens: of a question and a piece together, marks included.
        batch: pairs of a step.
        reader: folder of the reader whose candidates it is calibrated on; empty for the one that ships.
        calibration_questions: held-out questions that give the thresholds; 0 leaves it uncalibrated.
    """

    step: ClassVar[str] = "verifier"
    seed: int = 0
    model: str = ""
    questions: str = "pairs/squad-train.jsonl.gz"
    dev_articles: int = 22
    strangers: float = 0.12
    cut: float = 0.12
    swapped: float = 0.3
    rank: int = 64
    alpha: int = 64
    tokens: int = 128
    batch: int = 48
    steps: int = 1_200
    learning_rate: float = 1e-3
    warmup_steps: int = 60
    checkpoint_steps: int = 50
    reader: str = ""
    calibration_questions: int = 600
