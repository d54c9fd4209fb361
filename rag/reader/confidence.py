"""How sure an answer is: the probability that a span is right, from what reader and search make of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..generation import Source
from .decode import Span


@dataclass(frozen=True)
class Candidate:
    """The best span of one source.

    Attributes:
        start_char, end_char: in the source's text.
        evidence: strength of the sentence it stands in, see `find_evidence`.
    """

    source: Source
    start_char: int
    end_char: int
    span: Span
    evidence: float

    @property
    def text(self) -> str:
        """Verbatim."""
        return self.source.text[self.start_char : self.end_char]


@dataclass(frozen=True)
class Calibration:
    """A logistic regression over what is known of a candidate, and when it is an answer.

    Chosen on training articles that were held out, never on a test set; see `calibrating.py`.

    Attributes:
        weights: of the `known` features, then the constant.
        threshold: a probability below this is no answer.
        sure: one below this is not confident: the documents are quoted instead.
    """

    weights: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    threshold: float = 0.0
    sure: float = 0.0

    def probabilities(self, candidates: Sequence[Candidate]) -> NDArray[np.float64]:
        """(N,) probability of each candidate of a question to be right."""
        *weights, constant = self.weights
        return 1 / (1 + np.exp(-(known(candidates) @ np.array(weights) + constant)))


def known(candidates: Sequence[Candidate]) -> NDArray[np.float64]:
    """What tells right candidates of a question from wrong ones.

    Returns:
        (N, 6): log-odds against no answer, log-probability in its passage, lead over the best of the other passages or,
        without any, over no answer; strength of its sentence and of the passage's strongest, log of the passage's rank.
    """
    scores = np.array([c.span.score for c in candidates])
    order = np.sort(scores)
    others = [order[-2] if score == order[-1] else order[-1] for score in scores] if len(scores) > 1 else [0.0]
    columns = [
        scores,
        [np.log(max(c.span.share, 1e-9)) for c in candidates],
        scores - others,
        [c.evidence for c in candidates],
        [max(quote.score for quote in c.source.quotes) for c in candidates],
        [np.log(c.source.number) for c in candidates],
    ]
    return np.stack([np.asarray(column, np.float64) for column in columns], 1)
