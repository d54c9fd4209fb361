"""What a trained reader's confidence means, measured on articles that were held out.

Their paragraphs become a store, their questions are asked of it as a user's would be, once more without the
passages that hold the answer, and in another form that nothing answers (`swapping.py`): then the right answer is none.
A half of the questions gives the weights of the
confidence, the other half the thresholds and what is reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...embedder.encoder import Encoder
from ...index.batches import index_documents
from ...index.documents import Document
from ...index.store import Store
from ..answering import Answerer, AnswerRules
from ..context_cache import ContextCache
from ..errors import AnswerError
from ..generation import Task
from ..metrics import f1, holds_answer
from ..sentences import split_sentences
from .adapter import TrainedReader
from .confidence import Calibration, Candidate, known
from .data import Questions
from .generator import ReaderGenerator
from .reading import Reading

COVERAGE = 0.8
PRECISION = 0.8
# A span that shares at least this much with the answer is right.
_RIGHT = 0.5


@dataclass(frozen=True)
class Judged:
    """A question's candidates and what is true of them.

    Attributes:
        overlap: (N,) F1 of each with the answer.
        holds: (N,) whether the candidate's passage holds the answer.
        cited: (N,) whether the sentence that would be cited holds it.
        swapped: candidates of its other form; none of them is right.
    """

    candidates: list[Candidate]
    overlap: NDArray[np.float64]
    holds: NDArray[np.bool_]
    cited: NDArray[np.bool_]
    swapped: list[Candidate] = field(default_factory=list[Candidate])


@dataclass(frozen=True)
class Row:
    """What comes of a threshold; shares are 0 to 1.

    Attributes:
        coverage: answerable questions that are answered.
        f1, f1_answered: over all of them, one that is refused counting 0, and over those answered.
        cited: answered ones whose cited sentence holds the answer.
        refused: questions refused without the passages that hold their answer.
        refused_swapped: questions refused in their other form; 0 where none has one.
    """

    threshold: float
    coverage: float
    f1: float
    f1_answered: float
    cited: float
    refused: float
    refused_swapped: float = 0.0


def judge(
    trained: TrainedReader, encoder: Encoder, questions: Questions, count: int, swapped: Sequence[str]
) -> list[Judged]:
    """Ask `count` held-out questions of a store of the held-out paragraphs.

    `swapped` holds each question's other form, empty where it has none.
    """
    rows = np.random.default_rng(1).permutation(np.flatnonzero(questions.dev))[:count].tolist()
    passages = sorted({int(p) for p in questions.passage_of[questions.dev]})
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "s", encoder=encoder, create=True) as store:
        index_documents(store, encoder, [Document(f"p{p}", questions.passages[p]) for p in passages])
        recorder = _Recorder(ReaderGenerator(Reading(encoder, trained, ContextCache.of(store, encoder))))
        rules = AnswerRules()
        answerer = Answerer(store, encoder, replace(rules, floor=-np.inf), generator=recorder)
        judged: list[Judged] = []
        for row in rows:
            answerer.ask(questions.texts[row])
            found = _judged(recorder.candidates, [questions.answers[row]])
            if other := swapped[int(row)]:
                answerer.ask(other)
                found = replace(found, swapped=recorder.candidates)
            judged.append(found)
    return judged


class _Recorder:
    """A generator that writes nothing and remembers what the reader found."""

    name = "recorder"

    def __init__(self, reader: ReaderGenerator) -> None:
        self._reader = reader
        self.candidates: list[Candidate] = []

    def generate(self, task: Task) -> Iterator[str]:
        self.candidates = self._reader.candidates(task)
        return iter(())


def _judged(candidates: list[Candidate], gold: list[str]) -> Judged:
    return Judged(
        candidates,
        np.array([f1(c.text, gold) for c in candidates]),
        np.array([holds_answer(c.source.text, gold) for c in candidates], np.bool_),
        np.array([holds_answer(_sentence(c), gold) for c in candidates], np.bool_),
    )


def _sentence(candidate: Candidate) -> str:
    begin, end = candidate.start_char, candidate.end_char
    inside = [s for s in split_sentences(candidate.source.text) if s.start_char < end and s.end_char > begin]
    return " ".join(sentence.text for sentence in inside)


def calibrate(judged: Sequence[Judged]) -> tuple[Calibration, list[Row]]:
    """Weights from the even questions, thresholds and the table from the odd ones.

    Raises:
        AnswerError: no candidate is right, or all are: too few questions, or a reader that learned nothing.
    """
    from sklearn.linear_model import LogisticRegression

    fitted = [j for j in judged[::2] if j.candidates]
    right = np.concatenate([j.overlap >= _RIGHT for j in fitted])
    if right.all() or not right.any():
        raise AnswerError("the reader cannot be calibrated: train longer, or set calibration_questions to 0")
    wrong = [known(j.swapped) for j in judged[::2] if j.swapped]
    features = np.concatenate([*(known(j.candidates) for j in fitted), *wrong])
    model = LogisticRegression(max_iter=2000).fit(features, np.pad(right, (0, len(features) - len(right))))
    calibration = Calibration((*map(float, model.coef_[0]), float(model.intercept_[0])))
    rows = table(calibration, judged[1::2])
    threshold = max((row for row in rows if row.coverage >= COVERAGE), key=lambda row: row.threshold).threshold
    precise = [row.threshold for row in rows if row.cited >= PRECISION and row.threshold >= threshold]
    return replace(calibration, threshold=threshold, sure=min(precise, default=rows[-1].threshold)), rows


def table(calibration: Calibration, judged: Sequence[Judged]) -> list[Row]:
    """One row for each of 20 thresholds, the lowest first; every other one answers 5 % less of the questions."""
    best = [_best(calibration, j, np.ones(len(j.candidates), np.bool_)) for j in judged]
    none = [_best(calibration, j, ~j.holds) for j in judged]
    chances, overlap, cited = (np.array(column, np.float64) for column in zip(*best, strict=True))
    unanswerable = np.array([chance for chance, *_ in none])
    other = np.array([calibration.probabilities(j.swapped).max() for j in judged if j.swapped])
    rows: list[Row] = []
    for share in np.arange(0, 1, 0.05):
        threshold = float(np.quantile(chances, share)) if share else 0.0
        answered = chances >= threshold
        shown = answered & (chances > 0)
        rows.append(
            Row(
                round(threshold, 4),
                float(answered.mean()),
                float((overlap * answered).mean()),
                float(overlap[shown].mean()),
                float(cited[shown].mean()),
                float((unanswerable < threshold).mean()),
                float((other < threshold).mean()) if len(other) else 0.0,
            )
        )
    return rows


def _best(calibration: Calibration, judged: Judged, allowed: NDArray[np.bool_]) -> tuple[float, float, bool]:
    """Probability, overlap and citation of the candidate that would be the answer; zeros where there is none.

    Those that are left out are gone from the ranks as well, as if they had not been in the store.
    """
    kept = [c for c, keep in zip(judged.candidates, allowed, strict=True) if keep]
    candidates = [replace(c, source=replace(c.source, number=i)) for i, c in enumerate(kept, 1)]
    if not candidates:
        return 0.0, 0.0, False
    chances = calibration.probabilities(candidates)
    where = int(np.flatnonzero(allowed)[chances.argmax()])
    return float(chances.max()), float(judged.overlap[where]), bool(judged.cited[where])
