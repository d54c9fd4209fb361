"""Reciprocal rank fusion by its formula."""

import numpy as np
import pytest

from decant.index.errors import QueryError
from decant.index.fusion import METHODS, RANK_BASE, RRF_K, Fusion, ranks_of
from decant.index.topk import Ranked

NAMES = np.array([f"{i:032x}" for i in range(10)], "S32")


def ranking(*positions):
    return Ranked(np.array(positions, np.int64), np.linspace(9, 1, len(positions), dtype=np.float32))


def test_the_defaults_are_the_usual_ones():
    assert (RRF_K, RANK_BASE) == (60, 1)


@pytest.mark.parametrize(("rrf_k", "rank_base"), [(60, 1), (2, 0), (0, 1)])
def test_a_score_is_the_sum_of_reciprocal_ranks(rrf_k, rank_base):
    lists = {"dense": ranking(4, 2, 7), "lexical": ranking(2, 9)}
    fused = Fusion("rrf", rrf_k=rrf_k, rank_base=rank_base).fuse(lists, NAMES, 10)
    scores = {4: [0], 2: [1, 0], 7: [2], 9: [1]}
    wanted = {row: sum(1 / (rrf_k + rank_base + place) for place in places) for row, places in scores.items()}
    assert dict(zip(fused.positions.tolist(), fused.scores.tolist(), strict=True)) == pytest.approx(wanted)
    assert fused.scores.tolist() == sorted(fused.scores.tolist(), reverse=True)


def test_equal_sums_come_in_the_order_of_names():
    fused = Fusion("rrf").fuse({"a": ranking(8, 1), "b": ranking(3, 5)}, NAMES, 3)
    assert fused.positions.tolist() == [3, 8, 1]


def test_a_row_of_only_one_list_keeps_its_place():
    assert Fusion("rrf").fuse({"a": ranking(), "b": ranking(6, 2)}, NAMES, 5).positions.tolist() == [6, 2]
    assert len(Fusion("rrf").fuse({"a": ranking(), "b": ranking()}, NAMES, 5)) == 0


def test_ranks_count_from_one():
    lists = {"dense": ranking(4, 2), "lexical": ranking(2)}
    assert ranks_of(lists, np.array([2, 4])) == [{"dense": 2, "lexical": 1}, {"dense": 1}]


def scored(**scores):
    rows = sorted(scores.items(), key=lambda item: -item[1])
    return Ranked(np.array([int(name[1:]) for name, _ in rows]), np.array([score for _, score in rows], np.float32))


@pytest.mark.parametrize("method", METHODS)
def test_a_weight_of_nothing_leaves_a_list_out_and_weights_scale_scores(method):
    lists = {"dense": scored(r1=0.9, r2=0.8, r3=0.1), "lexical": scored(r3=12, r4=7, r1=2)}
    alone = Fusion(method, {"lexical": 0}).fuse(lists, NAMES, 10)
    assert alone.positions[0] == 1 and alone.scores[alone.positions.tolist().index(4)] == 0
    heavy = Fusion(method, {"lexical": 100}).fuse(lists, NAMES, 10)
    assert heavy.positions[:2].tolist() == [3, 4]
    double = Fusion(method, {"dense": 2, "lexical": 2}).fuse(lists, NAMES, 10)
    assert double.scores == pytest.approx(2 * Fusion(method).fuse(lists, NAMES, 10).scores)


@pytest.mark.parametrize(("method", "unit"), [("minmax", np.ptp), ("zscore", np.std)])
def test_scores_are_brought_to_one_scale(method, unit):
    dense, lexical = np.array([0.9, 0.8, 0.1], np.float32), np.array([12, 0, 0], np.float32)
    fused = Fusion(method).fuse({"dense": scored(r1=0.9, r2=0.8, r3=0.1), "lexical": scored(r2=12)}, NAMES, 10)
    wanted = {
        1: (dense[0] - dense[2]) / unit(dense),
        2: (dense[1] - dense[2]) / unit(dense) + 12 / unit(lexical),  # two dense rows do not match a word
        3: 0,
    }
    assert dict(zip(fused.positions.tolist(), fused.scores.tolist(), strict=True)) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_a_single_row_counts(method):
    fused = Fusion(method).fuse({"dense": scored(r5=0.2), "lexical": scored(r5=3.0)}, NAMES, 10)
    assert fused.positions.tolist() == [5] and fused.scores[0] > 0


@pytest.mark.parametrize(
    "arguments", [{"method": "best"}, {"weights": {"dense": -1}}, {"weights": {"dense": float("nan")}}, {"rrf_k": -1}]
)
def test_fusions_that_make_no_sense_are_refused(arguments):
    with pytest.raises(QueryError):
        Fusion(**arguments)
