"""What a trained reader's confidence means, measured on articles that were held out.

Their paragraphs become a store, their questions are asked of it as a user's would be, once more without the
passages that hold the answer, and in another form that nothing answers (`swapping.py`): then the right answer is none.
A half of the questions gives the weights of the
confidence, the other half the thresholds and what is reported.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from .confidence import Calibration, Candidate, known
from .data import Questions
from .generator import PointingGenerator

COVERAGE = 0.8
PRECISION = 0.8
# A span that shares at least this much with the answer is right.
_RIGHT = 0.5


@dataclass(frozen=True)
class Judged:
    """A question's candidates and what is true of them.

    Attributes:
        overlap: (N,) F1 of each with the answer.
        cited: (N,) whether the sentence that would be cited holds it.
        absent: candidates where the passages that hold the answer are left out; none of them is right.
        swapped: candidates of its other form; none of them is right.
    """

    candidates: list[Candidate]
    overlap: NDArray[np.float64]
    cited: NDArray[np.bool_]
    absent: list[Candidate] = field(default_factory=list[Candidate])
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
    make: Callable[[ContextCache], PointingGenerator],
    encoder: Encoder,
    questions: Questions,
    count: int,
    swapped: Sequence[str],
) -> list[Judged]:
    """Ask `count` held-out questions of a store of the held-out paragraphs.

    `make` gives who is asked over the store's cached states; `swapped` holds each question's other form, empty where it
    has none.
    """
    rows = np.random.default_rng(1).permutation(np.flatnonzero(questions.dev))[:count].tolist()
    passages = sorted({int(p) for p in questions.passage_of[questions.dev]})
    with tempfile.TemporaryDirectory() as folder, Store.open(Path(folder) / "s", encoder=encoder, create=True) as store:
        index_documents(store, encoder, [Document(f"p{p}", questions.passages[p]) for p in passages])
        asked, recorder = make(ContextCache.of(store, encoder)), _Recorder()
        answerer = Answerer(store, encoder, replace(AnswerRules(), floor=-np.inf), generator=recorder)

        def task_of(question: str) -> Task:
            answerer.ask(question)
            return recorder.tasks.pop() if recorder.tasks else Task(question, question, ())

        judged: list[Judged] = []
        for row in map(int, rows):
            gold = [questions.answers[row]]
            task = task_of(questions.texts[row])
            found = asked.candidates(task)
            absent = asked.candidates(without(task, gold))
            other = asked.candidates(task_of(swapped[row])) if swapped[row] else []
            overlap = np.array([f1(c.text, gold) for c in found])
            cited = np.array([holds_answer(_sentence(c), gold) for c in found], np.bool_)
            judged.append(Judged(found, overlap, cited, absent, other))
    return judged


class _Recorder:
    """A generator that writes nothing and remembers what it was to write."""

    name = "recorder"

    def __init__(self) -> None:
        self.tasks: list[Task] = []

    def generate(self, task: Task) -> Iterator[str]:
        self.tasks.append(task)
        return iter(())


def without(task: Task, gold: Sequence[str]) -> Task:
    """The task as if passages that hold an answer were not in the store, gone from the ranks as well."""
    kept = [source for source in task.sources if not holds_answer(source.text, gold)]
    return replace(task, sources=tuple(replace(source, number=i) for i, source in enumerate(kept, 1)))


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
    wrong = [known(other) for j in judged[::2] for other in (j.absent, j.swapped) if other]
    features = np.concatenate([*(known(j.candidates) for j in fitted), *wrong])
    model = LogisticRegression(max_iter=2000).fit(features, np.pad(right, (0, len(features) - len(right))))
    calibration = Calibration((*map(float, model.coef_[0]), float(model.intercept_[0])))
    rows = table(calibration, judged[1::2])
    threshold = max((row for row in rows if row.coverage >= COVERAGE), key=lambda row: row.threshold).threshold
    precise = [row.threshold for row in rows if row.cited >= PRECISION and row.threshold >= threshold]
    return replace(calibration, threshold=threshold, sure=min(precise, default=rows[-1].threshold)), rows


def table(calibration: Calibration, judged: Sequence[Judged]) -> list[Row]:
    """One row for each of 20 thresholds, the lowest first; every other one answers 5 % less of the questions."""
    best = [_best(calibration, j) for j in judged]
    chances, overlap, cited = (np.array(column, np.float64) for column in zip(*best, strict=True))
    absent = np.array([calibration.probabilities(j.absent).max() if j.absent else 0.0 for j in judged])
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
                float((absent < threshold).mean()),
                float((other < threshold).mean()) if len(other) else 0.0,
            )
        )
    return rows


def _best(calibration: Calibration, judged: Judged) -> tuple[float, float, bool]:
    """Probability, overlap and citation of the candidate that would be the answer; zeros where there is none."""
    if not judged.candidates:
        return 0.0, 0.0, False
    chances = calibration.probabilities(judged.candidates)
    best = int(chances.argmax())
    return float(chances[best]), float(judged.overlap[best]), bool(judged.cited[best])
