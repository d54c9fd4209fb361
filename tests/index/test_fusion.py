"""Reciprocal rank fusion by its formula."""

import numpy as np
import pytest

from decant.index.fusion import RANK_BASE, RRF_K, Fusion, ranks_of
from decant.index.topk import Ranked

NAMES = np.array([f"{i:032x}" for i in range(10)], "S32")


def ranking(*positions):
    return Ranked(np.array(positions, np.int64), np.linspace(9, 1, len(positions), dtype=np.float32))


def test_the_defaults_are_the_usual_ones():
    assert (RRF_K, RANK_BASE) == (60, 1)


@pytest.mark.parametrize(("rrf_k", "rank_base"), [(60, 1), (2, 0), (0, 1)])
def test_a_score_is_the_sum_of_reciprocal_ranks(rrf_k, rank_base):
    lists = {"dense": ranking(4, 2, 7), "lexical": ranking(2, 9)}
    fused = Fusion(rrf_k=rrf_k, rank_base=rank_base).fuse(lists, NAMES, 10)
    scores = {4: [0], 2: [1, 0], 7: [2], 9: [1]}
    wanted = {row: sum(1 / (rrf_k + rank_base + place) for place in places) for row, places in scores.items()}
    assert dict(zip(fused.positions.tolist(), fused.scores.tolist(), strict=True)) == pytest.approx(wanted)
    assert fused.scores.tolist() == sorted(fused.scores.tolist(), reverse=True)


def test_equal_sums_come_in_the_order_of_names():
    fused = Fusion().fuse({"a": ranking(8, 1), "b": ranking(3, 5)}, NAMES, 3)
    assert fused.positions.tolist() == [3, 8, 1]


def test_a_row_of_only_one_list_keeps_its_place():
    assert Fusion().fuse({"a": ranking(), "b": ranking(6, 2)}, NAMES, 5).positions.tolist() == [6, 2]
    assert len(Fusion().fuse({"a": ranking(), "b": ranking()}, NAMES, 5)) == 0


def test_ranks_count_from_one():
    lists = {"dense": ranking(4, 2), "lexical": ranking(2)}
    assert ranks_of(lists, np.array([2, 4])) == [{"dense": 2, "lexical": 1}, {"dense": 1}]
