import numpy as np
import pytest

from decant.embedder.training.pair_tokens import PairTokens, cut
from decant.embedder.training.pairs import PairSet


@pytest.fixture(scope="module")
def pairs(finished_run):
    return PairSet.load(finished_run.folder / "pairs")


def texts_of(packed):
    return [part.tolist() for part in packed.input_ids.split(packed.lengths)]


def test_development_pairs_are_never_drawn(pairs):
    held = {tuple(pairs.passages[row]) for row in np.flatnonzero(pairs.dev)}
    others = {tuple(pairs.passages[row]) for row in np.flatnonzero(~pairs.dev)}
    batches = PairTokens(pairs, 0, 500, {512: 1.0}, neighbours=4)
    drawn = {tuple(text) for step in range(40) for text in texts_of(batches[step][0])}
    cut_down = {tuple(cut(np.asarray(text), 512)) for text in held - others}
    assert cut_down and not cut_down & drawn


def test_a_batch_depends_on_the_seed_and_the_step_alone(pairs):
    one, other = (PairTokens(pairs, 3, 300, {16: 0.5, 48: 0.5}, neighbours=4) for _ in range(2))
    for step in (5, 0, 5):
        (first, count), (second, again) = one[step], other[step]
        assert texts_of(first) == texts_of(second) and count == again
    assert texts_of(one[1][0]) != texts_of(one[2][0])


def test_a_batch_holds_its_tokens_and_no_text_above_the_limit(pairs):
    batches = PairTokens(pairs, 0, 300, {16: 0.5, 32: 0.5}, neighbours=4)
    longest = set()
    for step in range(20):
        packed, count = batches[step]
        assert len(packed) == 2 * count and sum(packed.lengths) >= 300
        longest.add(max(packed.lengths))
    assert max(longest) <= 32 and min(longest) <= 16


@pytest.mark.parametrize(("length", "limit", "expected"), [(5, 512, 5), (16, 512, 16), (17, 512, 16), (31, 512, 24)])
def test_a_cut_text_keeps_its_last_token(length, limit, expected):
    found = cut(np.arange(length), limit)
    assert len(found) == expected and found[-1] == length - 1
    assert found[:-1].tolist() == list(range(expected - 1))
    assert len(cut(np.arange(100), 20)) == 20
