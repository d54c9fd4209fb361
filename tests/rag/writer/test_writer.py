"""The writer's probabilities against sums over every place, and its search against every run there is."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch

from decant.rag.reader.batch import pad, read
from decant.rag.states import States
from decant.rag.writer.lit import light
from decant.rag.writer.model import CopyWriter
from decant.rag.writer.search import write

from .conftest import states

ASKED = states([7, 8, 9], seed=1)
# Words stand in several places, also across the passages.
PASSAGES = [states([11, 12, 11, 13]), states([12, 11]), states([14])]


def runs_of(passages: Sequence[States]) -> set[tuple[int, ...]]:
    texts = [states.ids.tolist() for states in passages]
    return {tuple(t[i:j]) for t in texts for i in range(len(t)) for j in range(i + 1, len(t) + 1)}


def log_probability(writer: CopyWriter, words: Sequence[int], asked: States = ASKED, passages=PASSAGES) -> float:
    lit = light(writer.reader, [asked], [passages])
    return -float(writer(lit, [writer.prompt(asked.ids.tolist())], [list(words)]))


def test_what_is_read_is_the_states_and_what_the_reader_makes_of_them(writer):
    lit = light(writer.reader, [ASKED, states([3], seed=2)], [PASSAGES, PASSAGES[1:2]])
    assert lit.lengths == [7, 2]
    assert lit.ids[0].tolist() == [11, 12, 11, 13, 12, 11, 14]
    assert lit.follows[0].tolist() == [False, True, True, True, False, True, False]
    assert lit.log_rank[0].exp().tolist() == pytest.approx([1, 1, 1, 1, 2, 2, 3])
    at = 0
    for passage in PASSAGES:
        starts, ends = read(writer.reader, pad([passage], [ASKED], [0]))
        here = slice(at, at + len(passage))
        torch.testing.assert_close(lit.odds[0, here, 0], starts[0, :-1] - starts[0, -1])
        torch.testing.assert_close(lit.odds[0, here, 1], ends[0, :-1] - ends[0, -1])
        left = [(ends[0, i:-1] - ends[0, -1]).logsumexp(0) for i in range(len(passage))]
        torch.testing.assert_close(lit.odds[0, here, 2], torch.stack(left), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(lit.memory[0, here, :32], torch.from_numpy(passage.hidden).float())
        at += len(passage)
    assert not lit.mask[1, 2:].any()
    assert not lit.memory[1, 2:, :32].any()


def test_what_stands_beside_a_question_changes_nothing(writer):
    asked = [ASKED, states([3], seed=2), states(list(range(20, 31)), seed=3)]
    passages = [PASSAGES, PASSAGES[1:2], [states([40, 41, 42, 43, 44, 45])]]
    targets = [[12, 11], [], [41, 42, 43, 44]]
    lit = light(writer.reader, asked, passages)
    together = writer(lit, [writer.prompt(a.ids.tolist()) for a in asked], targets)
    alone = [-log_probability(writer, *each) for each in zip(targets, asked, passages, strict=True)]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)


def test_all_runs_and_none_have_all_the_probability(writer):
    chances = [math.exp(log_probability(writer, words)) for words in [(), *runs_of(PASSAGES)]]
    assert sum(chances) == pytest.approx(1.0, abs=1e-5)
    assert log_probability(writer, (11, 14)) < -1000  # stands nowhere


def test_an_answer_gains_from_each_place_where_it_stands(writer):
    """Each place's own probability, step by step."""
    lit = light(writer.reader, [ASKED], [PASSAGES])
    key, memories = writer.head.key(lit.memory), writer.remember(lit)
    prompt = writer.prompt(ASKED.ids.tolist())
    steps = writer.states(memories, [prompt], torch.tensor([[12, 11]]))
    copied, stopped, nothing = (logits[0] for logits in writer.head(steps, lit, key))
    whole = math.log(sum(copied[0].exp().tolist()) + math.exp(nothing))
    total = 0.0
    for place, ends in ((1, False), (4, True)):  # `12 11`, behind the second of which the passage ends
        go = 1 / (1 + math.exp(stopped[1, place] - copied[1, place + 1]))
        stop = 1.0 if ends else 1 / (1 + math.exp(copied[2, place + 2] - stopped[2, place + 1]))
        total += math.exp(copied[0, place] - whole) * go * stop
    assert log_probability(writer, (12, 11)) == pytest.approx(math.log(total), abs=1e-4)


@pytest.mark.parametrize("by_rank", [0.0, -1.0])
def test_before_it_is_trained_it_is_the_reader(untrained, by_rank):
    """And what it learns of ranks are odds as a power of the passage's rank."""
    untrained.head.rank.fill_(by_rank)
    odds = {}
    for rank, passage in enumerate(PASSAGES, 1):
        starts, ends = read(untrained.reader, pad([passage], [ASKED], [0]))
        ids = passage.ids.tolist()
        for i in range(len(ids)):
            for j in range(i, len(ids)):
                odd = math.exp(starts[0, i] - starts[0, -1] + ends[0, j] - ends[0, -1]) * rank**by_rank
                words = tuple(ids[i : j + 1])
                odds[words] = odds.get(words, 0.0) + odd
    whole = 1 + sum(odds.values())
    for words, odd in odds.items():
        assert log_probability(untrained, words) == pytest.approx(math.log(odd / whole), abs=1e-4)
    assert log_probability(untrained, ()) == pytest.approx(-math.log(whole), abs=1e-4)


def test_search_finds_the_best_of_all_runs(writer):
    asked = ASKED.ids.tolist()
    found, none = write(writer, light(writer.reader, [ASKED], [PASSAGES]), asked, beams=20)
    every = sorted(((log_probability(writer, words), words) for words in runs_of(PASSAGES)), reverse=True)
    assert found[0].words == every[0][1]
    by_words = dict((words, log) for log, words in every)
    texts = [word for passage in PASSAGES for word in passage.ids.tolist()]
    for run in found:
        assert run.log_probability == pytest.approx(by_words[run.words], abs=1e-4)
        assert tuple(texts[run.first : run.last + 1]) == run.words
    assert none == pytest.approx(log_probability(writer, ()), abs=1e-4)
    assert [run.log_probability for run in found] == sorted((run.log_probability for run in found), reverse=True)
    few, _ = write(writer, light(writer.reader, [ASKED], [PASSAGES]), asked, beams=1, max_tokens=1)
    assert [len(run.words) for run in few] == [1]


def test_gradients_reach_blocks_head_and_reader(writer):
    writer.train()
    trained = [writer.decoder.cross_attn_layers, writer.head, writer.reader]
    for module in trained:
        module.requires_grad_(True)
    lit = light(writer.reader, [ASKED], [PASSAGES])
    writer(lit, [writer.prompt(ASKED.ids.tolist())], [[11, 13]]).sum().backward()
    for module in trained:
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
    assert not writer.reader.training
    assert all(p.grad is None for p in writer.decoder.base.parameters())
