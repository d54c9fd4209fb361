"""The reader's log-odds of sentences."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from decant.embedder import Encoder
from decant.index import Document, Searcher, Store
from decant.index.batches import index_documents
from decant.rag import Answerer, Usage
from decant.rag.evidence import find_evidence
from decant.rag.generation import Task
from decant.rag.generators.choosing import EVIDENCE, GeneratorChoice, build_generator, build_judge, shipped_reading
from decant.rag.reader.decode import span_odds
from decant.rag.sentence_vectors import SentenceVectors

TEXTS = {
    "bridge": "The bridge over the Tarn was opened in 2004. It was designed by Michel Virlogeux. It is 2,460 m long.",
    "tower": "The tower was painted grey. Its lift was built by Roux in Lyon. Visitors queue for an hour.",
    "empty": "…",
}


def test_the_odds_of_a_range_are_those_of_its_spans():
    torch.manual_seed(0)
    starts, ends = torch.randn(2, 7), torch.randn(2, 7)
    a, b = starts.log_softmax(-1).exp(), ends.log_softmax(-1).exp()
    ranges = [(0, 0, 5), (0, 2, 2), (1, 1, 4)]
    wanted = []
    for row, first, last in ranges:
        pairs = itertools.product(range(first, last + 1), repeat=2)
        mass = sum(float(a[row, i] * b[row, j]) for i, j in pairs if i <= j < i + 3)
        wanted.append(math.log(mass / float(a[row, 6] * b[row, 6])))
    assert span_odds(starts, ends, ranges, max_tokens=3) == pytest.approx(wanted, abs=1e-5)
    assert span_odds(starts, ends, []) == []


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    encoder = Encoder.load(verify=False)
    with Store.open(tmp_path_factory.mktemp("s") / "s", encoder=encoder, create=True) as store:
        index_documents(store, encoder, [Document(name, text) for name, text in TEXTS.items()])
        yield store, encoder


def judged(opened, question: str, tenant: str = ""):
    store, encoder = opened
    judge = build_judge(shipped_reading(store, encoder))
    assert judge is not None
    hits = Searcher(store, encoder).search(question, k=3)
    found = find_evidence(question, hits, store, SentenceVectors(encoder), word_weight=4.0)
    task = Task(question, question, (), tenant=tenant)
    return found, judge.odds(task, found), task


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Who designed the bridge over the Tarn?", "Michel Virlogeux"), ("When was the bridge opened?", "2004")],
)
def test_the_sentence_that_answers_has_the_best_odds(opened, question, answer):
    found, odds, task = judged(opened, question)
    assert answer in found[int(odds.argmax())].sentence.text
    assert odds.max() > 0 > np.median(odds)
    assert (np.abs(odds) <= 12).all()
    assert task.meter.usage.prompt_tokens > 0


def test_questions_that_no_few_words_answer_are_not_judged(opened):
    found, odds, task = judged(opened, "How should I cross the bridge?")
    assert found and not odds.any()
    assert task.meter.usage.prompt_tokens == 0


def test_quotations_need_no_generator_and_a_foreign_model_has_no_judge(opened, tiny_model, tmp_path):
    store, encoder = opened
    assert build_generator(GeneratorChoice(EVIDENCE), store, encoder) is None
    other = Encoder.load(tiny_model, verify=False)
    with Store.open(tmp_path / "s", encoder=other, create=True) as foreign:
        assert build_judge(shipped_reading(foreign, other)) is None


def test_what_a_generator_used_stays_counted_where_its_text_is_not_used(opened):
    class Babbling:
        name = "babbling"

        def generate(self, task):
            task.meter.usage = Usage(1000, 0, 77)
            yield "Zebras paint the moon with purple trombones."

    store, encoder = opened
    judge = build_judge(shipped_reading(store, encoder))
    answer = Answerer(store, encoder, generator=Babbling(), judge=judge).ask("Who designed the bridge over the Tarn?")
    assert (answer.generator, len(answer.dropped)) == ("evidence", 1)
    assert answer.usage.prompt_tokens > 1000 and answer.usage.completion_tokens == 77
