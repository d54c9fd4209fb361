"""What a training of the writer is set to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class WriterRecipe:
    """Train cross-attention blocks and a copying head on a frozen encoder, and go on with a reader's training.

    Attributes:
        model: encoder folder; empty for decant-mini.
        reader: folder of the span reader to begin from; empty for the one that ships.
        questions: file of questions below the data folder.
        dev_articles: articles held out for development.
        paragraphs: paragraphs trained on; 0 for all.
        asked: questions trained on, searched for once before.
        passages: the most passages read for a question; a half, a quarter and so on of them as often.
        absent: share of questions asked of passages that were found without those that hold the answer.
        cut: share asked with their own passage without the sentence that answers.
        swapped: share asked with a thing in them exchanged so that nothing answers; see `rag/reader/swapping.py`.
        blocks, stride, hidden, heads, inner, dropout: see `XcConfig`; there is no gate, as in the official model.
        reader_rate: of the learning rate, for what the reader brought.
        scalar_rate: of the learning rate, for the few weights of odds and ranks.
        calibration_questions: held-out questions that give the thresholds; 0 leaves it uncalibrated.
    """

    step: ClassVar[str] = "writer"
    seed: int = 0
    model: str = ""
    reader: str = ""
    questions: str = "pairs/squad-train.jsonl.gz"
    dev_articles: int = 22
    paragraphs: int = 0
    asked: int = 20_000
    passages: int = 8
    absent: float = 0.1
    cut: float = 0.04
    swapped: float = 0.14
    blocks: int = 2
    stride: int = 2
    hidden: int = 384
    heads: int = 12
    inner: int = 512
    dropout: float = 0.1
    batch_questions: int = 16
    steps: int = 2_000
    learning_rate: float = 1e-3
    reader_rate: float = 0.3
    scalar_rate: float = 5.0
    warmup_steps: int = 50
    checkpoint_steps: int = 50
    calibration_questions: int = 400
