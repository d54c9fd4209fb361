"""How good answers are: SQuAD's exact match and F1, retrieval, citations, abstention, and what an answer costs.

Sweeps over retrieval modes and numbers of passages follow RAGGED (arXiv 2403.09040): whether more passages help
depends on the reader, so it is measured for each.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..index.batches import index_documents
from ..index.documents import Document
from ..index.encoder import Encoder
from ..index.store import Store
from .answer import Answer
from .answering import Answerer
from .errors import AnswerError
from .metrics import exact_match, f1, holds_answer

_COVERAGE = 0.8
_MARK = re.compile(r"\s*\[\d+\]")


@dataclass(frozen=True)
class Example:
    """A question with its passage.

    Attributes:
        gold: answers that count as right; none if the passages do not answer it.
    """

    question: str
    passage: str
    gold: tuple[str, ...]


@dataclass(frozen=True)
class QaReport:
    """Averages over questions; shares are 0 to 1.

    Attributes:
        exact_match, f1: over answerable questions, an abstention counting 0.
        f1_answered: F1 of the answerable questions that were answered.
        passage_recall: answerable questions with a part of their own passage, or all of it, among those read.
        answer_recall: answerable questions with a passage among those read that holds a right answer.
        citation_precision: citations, of answerable questions, whose text holds a right answer.
        coverage: answerable questions that were answered.
        abstention: unanswerable questions that were not answered; None without any.
        abstention_at_80: unanswerable questions that would not be answered where the generator's confidence decided and
            80 % of the answerable ones were; None without any, or where the generator tells no confidence.
        seconds: for one question, in the mean; cached_share: of the prompt's tokens.
    """

    questions: int
    exact_match: float
    f1: float
    f1_answered: float
    passage_recall: float
    answer_recall: float
    citation_precision: float
    coverage: float
    abstention: float | None
    abstention_at_80: float | None
    seconds: float
    prompt_tokens: float
    cached_share: float


def read_examples(path: Path, limit: int = 0, seed: int = 0) -> list[Example]:
    """Read SQuAD's JSON (1.1 or 2.0), plain or gzipped; `limit` draws that many questions.

    Raises:
        AnswerError: the file cannot be read as that.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        examples = list(_examples(json.loads(raw)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AnswerError(f"{path} is not SQuAD's JSON ({type(error).__name__}: {error}): choose another") from error
    if not limit or limit >= len(examples):
        return examples
    return [examples[i] for i in np.sort(np.random.default_rng(seed).choice(len(examples), limit, replace=False))]


def _examples(raw: Any) -> Iterator[Example]:
    for article in raw["data"]:
        for paragraph in article["paragraphs"]:
            for asked in paragraph["qas"]:
                gold = tuple(dict.fromkeys(answer["text"] for answer in asked["answers"]))
                yield Example(asked["question"], paragraph["context"], gold if not asked.get("is_impossible") else ())


def index_examples(store: Store, encoder: Encoder, examples: Sequence[Example]) -> None:
    """Put every passage of the examples into a store, each as one document."""
    passages = dict.fromkeys(example.passage for example in examples)
    index_documents(store, encoder, [Document(f"p{i}", text) for i, text in enumerate(passages)])


@dataclass(frozen=True)
class _Asked:
    example: Example
    answer: Answer
    read: tuple[str, ...]
    seconds: float


def evaluate_qa(
    answerer: Answerer,
    examples: Sequence[Example],
    *,
    k: int | None = None,
    mode: str | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> QaReport:
    """Ask every question of a store that holds the passages, and judge the answers."""
    asked: list[_Asked] = []
    for example in examples:
        began = time.perf_counter()
        answer = answerer.ask(example.question, k=k, mode=mode)
        seconds = time.perf_counter() - began
        read = tuple(hit.chunk.text for hit in answerer.retrieve(answer.query, k=k, mode=mode))
        asked.append(_Asked(example, answer, read, seconds))
        progress(len(asked))
    return _report(asked)


def _report(asked: Sequence[_Asked]) -> QaReport:
    right = [a for a in asked if a.example.gold]
    wrong = [a for a in asked if not a.example.gold]
    answered = [a for a in right if a.answer.grounded]
    texts = [_MARK.sub("", a.answer.text) if a.answer.grounded else "" for a in right]
    overlaps = [f1(text, a.example.gold) for text, a in zip(texts, right, strict=True)]
    cited = [holds_answer(c.text, a.example.gold) for a in right for c in a.answer.citations]
    tokens = sum(a.answer.usage.prompt_tokens for a in asked)
    return QaReport(
        questions=len(asked),
        exact_match=_mean([exact_match(text, a.example.gold) for text, a in zip(texts, right, strict=True)]),
        f1=_mean(overlaps),
        f1_answered=_mean([value for value, a in zip(overlaps, right, strict=True) if a.answer.grounded]),
        passage_recall=_mean([any(r.strip() in a.example.passage for r in a.read) for a in right]),
        answer_recall=_mean([any(holds_answer(text, a.example.gold) for text in a.read) for a in right]),
        citation_precision=_mean(cited),
        coverage=len(answered) / max(1, len(right)),
        abstention=_mean([not a.answer.grounded for a in wrong]) if wrong else None,
        abstention_at_80=_abstention_at(_COVERAGE, right, wrong),
        seconds=_mean([a.seconds for a in asked]),
        prompt_tokens=tokens / max(1, len(asked)),
        cached_share=sum(a.answer.usage.cached_tokens for a in asked) / max(1, tokens),
    )


def _abstention_at(coverage: float, right: Sequence[_Asked], wrong: Sequence[_Asked]) -> float | None:
    """One that the generator was not asked is one that it is not sure of at all."""
    if not right or not wrong or all(a.answer.confidence is None for a in (*right, *wrong)):
        return None
    sure, unsure = ([a.answer.confidence or 0.0 for a in some] for some in (right, wrong))
    threshold = sorted(sure)[len(sure) - math.ceil(coverage * len(sure))]
    return _mean([value < threshold for value in unsure])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


@dataclass(frozen=True)
class SweepPoint:
    """One setting of a sweep, measured."""

    generator: str
    mode: str
    k: int
    report: QaReport


def recommended(points: Sequence[SweepPoint], tolerance: float = 0.01) -> SweepPoint:
    """The cheapest setting whose F1 is within `tolerance` of the best: fewest passages, then the better F1."""
    best = max(point.report.f1 for point in points)
    good = [point for point in points if point.report.f1 >= best - tolerance]
    return min(good, key=lambda point: (point.k, -point.report.f1))


def draw_sweep(points: Sequence[SweepPoint], path: Path) -> None:
    """Write a plot of F1 over the number of passages, a line per generator and mode, the recommended setting marked.

    Raises:
        AnswerError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise AnswerError("a plot needs matplotlib: pip install 'decant[train]', or leave --plot out") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for who, mode in dict.fromkeys((point.generator, point.mode) for point in points):
        own = sorted((p for p in points if (p.generator, p.mode) == (who, mode)), key=lambda p: p.k)
        axes.plot([p.k for p in own], [100 * p.report.f1 for p in own], marker="o", label=f"{who}, {mode}: F1")
    for mode in dict.fromkeys(point.mode for point in points):
        found = {p.k: 100 * p.report.answer_recall for p in points if p.mode == mode}
        axes.plot(sorted(found), [found[k] for k in sorted(found)], ls=":", label=f"{mode}: answer in a passage")
    choice = recommended(points)
    axes.axvline(choice.k, color="grey", lw=0.8)
    axes.set(xlabel="passages read", ylabel="%", title=f"read {choice.k} ({choice.mode}, {choice.generator})")
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=120)
