from types import SimpleNamespace

import numpy as np
import pytest

from decant.embedder.training.advice import CROSSOVER_FLOP, advise
from decant.embedder.training.data import TrainingPair
from decant.embedder.training.mining import MiningSettings, hard_share, mine, threshold
from decant.embedder.training.settings import RecipeError


class Angles:
    """Encodes 'x:NUMBER' as the unit vector at that angle in degrees, so that scores are known."""

    def encode(self, texts, *, kind):
        angles = np.radians([float(text.split(":")[1]) for text in texts])
        return SimpleNamespace(dense=np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32))


def pairs():
    # Passages every degree; the query asked twice has positives at 10 and at 20 degrees.
    asked = [TrainingPair("q:0", "p:10"), TrainingPair("q:0", "p:20")]
    return asked + [TrainingPair(f"q:{90 + i}", f"p:{i}") for i in range(21, 60)]


def test_negatives_stay_below_the_query_s_lowest_positive():
    for settings in (
        MiningSettings(negatives=3, pool=5, depth=40),
        MiningSettings(negatives=3, pool=5, depth=40, limit=0.05, limit_kind="margin"),
    ):
        mined = list(mine(pairs(), Angles(), settings))[:2]
        bound = np.cos(np.radians(20)) * 0.95 if settings.limit_kind == "percent" else np.cos(np.radians(20)) - 0.05
        closest = [i for i in range(21, 60) if np.cos(np.radians(i)) < bound][:5]
        for one in mined:
            assert one.positive_score == pytest.approx(np.cos(np.radians(20)), abs=1e-5)
            assert one.hard == 3 and {int(text[2:]) for text in one.negatives} <= set(closest)
            assert all(score < bound for score in one.scores)


def test_a_negative_positive_lowers_the_bound():
    settings = MiningSettings()
    assert threshold(0.8, settings) == pytest.approx(0.76)
    assert threshold(-0.4, settings) == pytest.approx(-0.42)


def test_the_lower_a_positive_ranks_the_softer_its_negatives():
    settings = MiningSettings(negatives=4, pool=5, depth=41, soft="by_rank")
    shares = [hard_share(rank, settings) for rank in (1, 2, 10, 41, 500)]
    assert shares[0] == 1 and shares == sorted(shares, reverse=True) and shares[3] == shares[4] == 0
    # The query at 0 degrees finds its lowest positive second; those at 111 and more find theirs far down.
    mined = list(mine(pairs(), Angles(), settings))
    assert mined[0].hard == round(hard_share(2, settings) * 4)
    low = mined[2]
    assert low.hard == 0 and set(low.negatives) == {"p:10", "p:20"}  # all others score above its positive
    assert len(mined[0].negatives) == 4
    assert not {"p:10", "p:20"} & set(mined[0].negatives)


def test_mining_is_repeatable_and_refuses_what_gives_nothing():
    settings = MiningSettings(negatives=2, pool=6, depth=20)
    first, again = (list(mine(pairs(), Angles(), settings)) for _ in range(2))
    assert first == again
    for wrong in ({"negatives": 0}, {"pool": 2}, {"depth": 5}, {"limit": 1.5}):
        with pytest.raises(RecipeError):
            MiningSettings(**wrong)


def test_advice_follows_its_formula_and_says_what_is_unverified():
    small, large = advise(1e15, 1e8), advise(1e18, 1e9)
    assert (small.method, large.method) == ("full", "lora")
    assert small.tokens == pytest.approx(1e15 / (6 * small.parameters))
    assert large.tokens == pytest.approx(1e18 / (4 * large.parameters))
    assert large.parameters > small.parameters
    assert small.epochs == pytest.approx(small.tokens / 1e8)
    assert any("crossover" in note for note in small.unverified) and any("rank" in note for note in large.unverified)
    assert advise(CROSSOVER_FLOP, 1e9).method == "lora"
    with pytest.raises(RecipeError):
        advise(0, 1)
