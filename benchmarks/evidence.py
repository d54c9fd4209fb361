"""Choose the rules by which evidence becomes a quotation, on SQuAD training questions (never on test questions).

    python benchmarks/evidence.py [--questions 400]

The articles are those that the reader's training held out. Two thirds of them are the store; half of the questions are
theirs, the other half those of articles that are not in it. For weights of the question's words, of the passage's rank
and of the reader's log-odds: how often the strongest sentence holds the answer, how often one of those quoted
does, how many of the quoted ones do; and, where the threshold keeps 80 or 90 % of the answerable questions, how many
are refused of the others, and of the answerable ones when the passages with their answer are not found. The weights
are those of words, rank and reader.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from decant.embedder import Encoder
from decant.index import Document, Searcher, Store
from decant.index.batches import index_documents
from decant.rag.answering import AnswerRules
from decant.rag.evidence import content_words, find_evidence, overlap
from decant.rag.generation import Task
from decant.rag.generators.choosing import build_judge, shipped_reading
from decant.rag.metrics import holds_answer
from decant.rag.reader.data import Questions, read_questions
from decant.rag.sentence_vectors import SentenceVectors

DATA = Path(os.environ.get("DECANT_DATA", "../shared/data"))
COVERAGES = (0.8, 0.9)
WORD_WEIGHTS = (0.0, 2.0, 3.0, 4.0, 6.0)
RANK_WEIGHTS = (0.5, 1.0, 1.5)
JUDGE_WEIGHTS = (0.1, 0.2, 0.3, 0.5)
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """A question's N sentences: cosines in standard deviations, share of its words, log-odds, what is true of them.

    `passage` and `passage_holds` are the rank, from 0, and the truth of the passage that a sentence stands in.
    """

    cosines: Floats
    words: Floats
    odds: Floats
    holds: NDArray[np.bool_]
    passage: NDArray[np.int64]
    passage_holds: NDArray[np.bool_]

    def robbed(self) -> Asked | None:
        """Without the passages that hold the answer, whose ranks go to the others; None where nothing is left."""
        kept = ~self.passage_holds
        if not kept.any():
            return None
        _, rank = np.unique(self.passage[kept], return_inverse=True)
        parts = (self.cosines, self.words, self.odds, self.holds)
        return Asked(*(part[kept] for part in parts), rank, self.passage_holds[kept])


def gather(encoder: Encoder, data: Questions, inside: set[int], count: int) -> tuple[list[Asked], list[Asked]]:
    """Ask a store of the articles `inside` questions of theirs and of the other held-out articles."""
    articles = data.articles[data.passage_of]
    rng = np.random.default_rng(0)
    pools = [np.flatnonzero(data.dev & (np.isin(articles, list(inside)) == own)) for own in (True, False)]
    rows = [rng.choice(pool, min(count // 2, len(pool)), replace=False).tolist() for pool in pools]
    held = [i for i, article in enumerate(data.articles) if int(article) in inside]
    rules = AnswerRules()
    with tempfile.TemporaryDirectory() as scratch, Store.open(Path(scratch), encoder=encoder, create=True) as store:
        index_documents(store, encoder, [Document(f"p{i}", data.passages[i]) for i in held])
        judge = build_judge(shipped_reading(store, encoder))
        if judge is None:
            raise SystemExit("the reader that ships was not trained on this model: leave --model out")
        searcher, vectors = Searcher(store, encoder), SentenceVectors(encoder)

        def ask(row: int) -> Asked:
            question, gold = data.texts[row], [data.answers[row]]
            hits = searcher.search(question, mode=rules.mode, k=rules.passages)
            found = find_evidence(question, hits, store, vectors, word_weight=0.0)
            wanted = content_words(question)
            place = {id(hit): i for i, hit in enumerate(hits)}
            return Asked(
                np.array([e.score for e in found]),
                np.array([overlap(wanted, e.sentence.text) for e in found]),
                judge.odds(Task(question, question, ()), found),
                np.array([holds_answer(e.sentence.text, gold) for e in found], np.bool_),
                np.array([place[id(e.hit)] for e in found], np.int64),
                np.array([holds_answer(e.hit.chunk.text, gold) for e in found], np.bool_),
            )

        answerable, other = ([asked for asked in map(ask, part) if len(asked.cosines)] for part in rows)
    print(f"{len(held)} paragraphs, {len(answerable)} answerable questions and {len(other)} others")
    return answerable, other


def show(name: str, score: Callable[[Asked], Floats], answerable: list[Asked], other: list[Asked]) -> None:
    """Print what a way of scoring comes to."""
    rules = AnswerRules()
    first, any_of, quoted = [], [], []
    for asked in answerable:
        scores = score(asked)
        order = np.argsort(-scores, kind="stable")[: rules.sentences]
        holds = asked.holds[[i for i in order if i == order[0] or scores[i] >= rules.share * scores[order[0]]]]
        first.append(holds[0])
        any_of.append(holds.any())
        quoted.extend(holds)
    strengths = np.array([score(asked).max() for asked in answerable])
    strangers = np.array([score(asked).max() for asked in other])
    robbed = np.array([-np.inf if (left := a.robbed()) is None else score(left).max() for a in answerable])
    least = [float(np.quantile(strengths, 1 - coverage)) for coverage in COVERAGES]
    shares = "".join(f" | {t:5.2f} {np.mean(strangers < t):6.3f} {np.mean(robbed < t):6.3f}" for t in least)
    print(f"{name:>22} {np.mean(first):6.3f} {np.mean(any_of):6.3f} {np.mean(quoted):6.3f}{shares}")


def main() -> int:
    """Print one line per way of scoring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--questions", type=int, default=400)
    options = parser.parse_args()
    encoder, usual = Encoder.load(options.model), AnswerRules().word_weight
    data = read_questions(DATA / "pairs" / "squad-train.jsonl.gz", dev_articles=22, paragraphs=1)
    articles = np.unique(data.articles[data.passage_of[data.dev]])
    inside = set(np.random.default_rng(0).permutation(articles)[: 2 * len(articles) // 3].tolist())
    answerable, other = gather(encoder, data, inside, options.questions)
    print(f"{'weights':>22} {'first':>6} {'any':>6} {'quoted':>6}" + " | thresh  other no gold" * len(COVERAGES))

    def weighed(words: float, rank: float, judge: float) -> Callable[[Asked], Floats]:
        return lambda a: a.cosines + words * a.words - rank * np.log1p(a.passage) + judge * a.odds

    for words in WORD_WEIGHTS:
        show(f"{words}, {0.0}, {0.0}", weighed(words, 0.0, 0.0), answerable, other)
    for rank in RANK_WEIGHTS:
        show(f"{usual}, {rank}, {0.0}", weighed(usual, rank, 0.0), answerable, other)
    for rank in (0.0, *RANK_WEIGHTS):
        for judge in JUDGE_WEIGHTS:
            show(f"{usual}, {rank}, {judge}", weighed(usual, rank, judge), answerable, other)
    return 0


if __name__ == "__main__":
    sys.exit(main())
