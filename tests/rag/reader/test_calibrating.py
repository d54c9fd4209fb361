"""Confidence is learned from what is right, and thresholds keep what they promise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from decant.rag import AnswerError
from decant.rag.generation import Source, Task
from decant.rag.reader.calibrating import COVERAGE, Judged, calibrate, table, without
from decant.rag.reader.confidence import Calibration, Candidate, known
from decant.rag.reader.decode import Span


def candidate(score: float, number: int, evidence: float = 5.0) -> Candidate:
    quotes = (SimpleNamespace(score=evidence), SimpleNamespace(score=evidence - 2))
    return Candidate(Source(number, None, quotes), 0, 1, Span(0, 0, score, 0.5), evidence)


def judged(rng: np.random.Generator, right_score: float = 3.0) -> Judged:
    """Four passages; the first is right where it scores high."""
    scores = rng.normal(0, 1, 4)
    scores[0] += right_score * (rng.random() < 0.7)
    right = np.array([scores[0] > 1.5, False, False, False])
    return Judged(
        [candidate(float(score), i + 1) for i, score in enumerate(scores)],
        right.astype(float),
        right,
        [candidate(float(score), i + 1) for i, score in enumerate(scores[1:])],
    )


def test_what_is_known_of_candidates():
    rows = known([candidate(2.0, 1), candidate(5.0, 2, evidence=3.0), candidate(1.0, 4)])
    assert rows[:, 0].tolist() == [2.0, 5.0, 1.0]
    assert rows[:, 2].tolist() == [-3.0, 3.0, -4.0]
    assert rows[:, 3].tolist() == [5.0, 3.0, 5.0]
    assert rows[:, 5] == pytest.approx(np.log([1, 2, 4]))
    assert known([candidate(2.0, 1)])[0, 2] == 2.0


def test_thresholds_keep_their_promise():
    rng = np.random.default_rng(0)
    calibration, rows = calibrate([judged(rng) for _ in range(400)])
    assert [row.coverage for row in rows] == sorted((row.coverage for row in rows), reverse=True)
    assert [row.refused for row in rows] == sorted(row.refused for row in rows)
    at = next(row for row in rows if row.threshold == calibration.threshold)
    assert at.coverage >= COVERAGE
    assert calibration.sure >= calibration.threshold
    again = table(calibration, [judged(rng) for _ in range(2000)])
    by_threshold = {row.threshold: row for row in again}
    assert len(by_threshold) == len(again)
    sure = min(again, key=lambda row: abs(row.threshold - calibration.sure))
    assert sure.cited > 0.7 > again[0].cited


def test_passages_that_are_left_out_are_gone_from_the_ranks():
    hits = [SimpleNamespace(chunk=SimpleNamespace(text=text)) for text in ("No.", "The Rhine.", "Yes.", "A rhine!")]
    task = Task("?", "?", tuple(Source(i, hit, ()) for i, hit in enumerate(hits, 1)))
    left = without(task, ["the Rhine"]).sources
    assert [(source.number, source.text) for source in left] == [(1, "No."), (2, "Yes.")]
    assert without(task, ["nowhere"]) == task


def test_probabilities_are_those_of_being_right():
    rng = np.random.default_rng(1)
    calibration, _ = calibrate([judged(rng) for _ in range(600)])
    fresh = [judged(rng) for _ in range(600)]
    chances = np.concatenate([calibration.probabilities(j.candidates) for j in fresh])
    right = np.concatenate([j.overlap for j in fresh])
    for low, high in ((0.0, 0.3), (0.7, 1.0)):
        inside = (chances >= low) & (chances <= high)
        assert right[inside].mean() == pytest.approx(chances[inside].mean(), abs=0.1)


def test_a_reader_that_is_never_right_cannot_be_calibrated():
    wrong = Judged([candidate(1.0, 1)], np.zeros(1), np.zeros(1, np.bool_))
    with pytest.raises(AnswerError, match="train longer"):
        calibrate([wrong] * 10)
    assert table(Calibration(), [wrong] * 10)[0].f1 == 0.0


@pytest.mark.parametrize(("kind", "refused"), [("swapped", "refused_swapped"), ("absent", "refused")])
def test_what_nothing_answers_teaches_what_is_wrong(kind, refused):
    rng = np.random.default_rng(2)
    plain = [replace(judged(rng), absent=[]) for _ in range(400)]
    # Where nothing answers the passage scores as high, but its sentence is weaker: only that teaches that this matters.
    fooled = [replace(j, **{kind: [candidate(4.0, 1, evidence=3.0)]}) for j in plain]
    rows = {name: calibrate(some)[1] for name, some in (("plain", plain), ("fooled", fooled))}
    assert rows["plain"][4].refused_swapped == 0.0
    weights = calibrate(plain)[0].weights
    unlearned = table(Calibration(weights), fooled[1::2])
    assert getattr(rows["fooled"][4], refused) > 0.9 > 0.1 > getattr(unlearned[4], refused)
