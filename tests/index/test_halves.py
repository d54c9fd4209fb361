"""The half-precision copy chooses candidates that hold every one of the k best."""

import numpy as np
import pytest

from decant.index import halves, topk
from decant.index.pool import VectorPool


def unit(rng, *shape):
    rows = rng.standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def best(matrix, query, k, allowed):
    scores = topk.exact_scores(matrix, query)
    scores[~allowed] = -np.inf
    return set(np.flatnonzero(scores >= np.sort(scores)[-k]).tolist())


@pytest.mark.parametrize("near", [False, True], ids=["spread", "nearly equal"])
def test_none_of_the_best_is_missed(monkeypatch, near):
    monkeypatch.setattr(halves, "CALLS", 2)
    rng = np.random.default_rng(3)
    matrix = unit(rng, 5000, 48)
    if near:  # closer to each other than half precision can tell
        matrix[:300] = matrix[0] + 1e-5 * unit(rng, 300, 48)
        topk.normalize(matrix)
    pool = VectorPool(matrix, np.arange(5000))
    pool.candidates(matrix[:1], 10, None)
    more = pool.extended(np.arange(5000, 5100), unit(rng, 100, 48))
    allowed = rng.random(5100) < 0.7
    queries = np.concatenate([more.matrix[[0, 7, 5050]], unit(rng, 5, 48)])
    for mask in (allowed, np.ones(5100, np.bool_)):
        for query, found in zip(queries, more.candidates(queries, 10, mask), strict=True):
            assert best(more.matrix, query, 10, mask) <= set(found.tolist())
            assert mask[found].all()
    assert near or more.halves.candidates(more.matrix, queries, 10, None) is not None
    assert more.halves is pool.halves


def test_it_is_asked_where_that_pays_only(monkeypatch):
    rng = np.random.default_rng(3)
    matrix = unit(rng, 5000, 48)
    fresh = halves.Halves()
    answers = [fresh.candidates(matrix, matrix[:1], 10, None) for _ in range(halves.CALLS)]
    assert answers[-2] is None
    assert answers[-1] is not None
    assert fresh.candidates(matrix, matrix[: halves.MOST_QUERIES + 1], 10, None) is None
    assert fresh.candidates(matrix[:4500], matrix[:1], 10, None) is None  # of a view before rows came
    assert fresh.candidates(matrix, matrix[:1], 2000, None) is None
    assert fresh.candidates(matrix, matrix[:1], 10, np.arange(5000) < 3) is None


def test_rows_behind_the_copy_are_taken_in_when_they_are_many(monkeypatch):
    monkeypatch.setattr(halves, "CALLS", 1)
    rng = np.random.default_rng(3)
    matrix = unit(rng, 6000, 48)
    made = halves.Halves()
    assert made.candidates(matrix[:5000], matrix[:1], 10, None)[0] == 5000
    assert made.candidates(matrix[:5500], matrix[:1], 10, None)[0] == 5000
    assert made.candidates(matrix, matrix[:1], 10, None)[0] == 6000
