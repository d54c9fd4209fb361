from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from decant.embedder.packing import pack_by_length, pack_evenly

Lengths = st.lists(st.integers(1, 50), max_size=60)


@given(Lengths, st.integers(1, 120))
def test_every_text_once_within_the_budget(lengths: list[int], budget: int) -> None:
    batches = pack_by_length(lengths, budget)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or sum(lengths[i] for i in batch) <= budget


@given(Lengths, st.integers(1, 120))
def test_longest_first_and_equal_lengths_side_by_side(lengths: list[int], budget: int) -> None:
    order = [lengths[i] for batch in pack_by_length(lengths, budget) for i in batch]
    assert order == sorted(lengths, reverse=True)


@given(Lengths, st.integers(1, 120))
def test_no_batch_is_closed_early(lengths: list[int], budget: int) -> None:
    batches = pack_by_length(lengths, budget)
    for batch, following in zip(batches, batches[1:], strict=False):
        assert sum(lengths[i] for i in batch) + lengths[following[0]] > budget


def test_over_long_text_goes_alone() -> None:
    assert [batch.tolist() for batch in pack_by_length([3, 100, 4], 10)] == [[1], [2, 0]]


def test_nothing_to_pack() -> None:
    assert pack_by_length([], 10) == []


@pytest.mark.parametrize("budget", [0, -1])
def test_budget_must_be_positive(budget: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        pack_by_length([1], budget)


def test_indices_are_integers() -> None:
    assert pack_by_length([2, 1], 10)[0].dtype == np.int64


@given(Lengths, st.integers(1, 120), st.integers(1, 5))
def test_even_batches_are_about_equal(lengths: list[int], budget: int, multiple: int) -> None:
    batches = pack_evenly(lengths, budget, multiple)
    assert [lengths[i] for batch in batches for i in batch] == sorted(lengths, reverse=True)
    assert sorted(int(i) for batch in batches for i in batch) == list(range(len(lengths)))
    sizes = [sum(lengths[i] for i in batch) for batch in batches]
    wanted = multiple * max(1, -(-sum(lengths) // (multiple * budget)))
    longest = max(lengths, default=0)
    assert all(abs(size - sum(lengths) / wanted) <= longest for size in sizes)
    assert all(size <= budget + longest for size in sizes)
    if sum(lengths) > wanted * longest:
        assert len(batches) == wanted
