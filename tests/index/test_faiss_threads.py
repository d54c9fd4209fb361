"""One thread for few queries; the number is given back whatever happens."""

from __future__ import annotations

from collections.abc import Generator

import faiss
import numpy as np
import pytest

from decant.index.faiss_threads import MANY, threads_for
from decant.index.topk import candidates


@pytest.fixture
def three() -> Generator[int]:
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(3)
    yield 3
    faiss.omp_set_num_threads(before)


def test_few_queries_have_one_thread_and_many_all(three: int) -> None:
    with threads_for(1):
        assert faiss.omp_get_max_threads() == 1
    assert faiss.omp_get_max_threads() == three
    with threads_for(MANY):
        assert faiss.omp_get_max_threads() == three
    with pytest.raises(KeyError), threads_for(1):
        raise KeyError
    assert faiss.omp_get_max_threads() == three


@pytest.mark.parametrize("count", [1, MANY - 1, MANY])
@pytest.mark.parametrize("rows", [0, 1, 7, 501])
def test_candidates_hold_the_best_by_either_way(count: int, rows: int) -> None:
    rng = np.random.default_rng(rows)
    matrix, queries = (rng.standard_normal((n, 33)).astype(np.float32) for n in (rows, count))
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    matrix.flags.writeable = queries.flags.writeable = False
    for part in (matrix, matrix[::2], np.asfortranarray(matrix)):
        for query, found in zip(queries, candidates(part, queries, 5, None), strict=True):
            best = np.argsort(-(part.astype(np.float64) @ query))[:5]
            assert set(best) <= set(found) and len(found) <= 6
