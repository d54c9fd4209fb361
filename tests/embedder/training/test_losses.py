import math

import numpy as np
import torch

from decant.embedder.training.losses import cosine_distance, info_nce, prefixes, score_divergence


def units(seed, rows, width=8):
    array = np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def log_softmax(row):
    return row - math.log(sum(math.exp(value) for value in row))


def test_info_nce_equals_its_definition_and_leaves_equal_passages_out():
    queries, passages, groups = units(0, 4), units(1, 4), [7, 3, 7, 5]
    scores = (queries @ passages.T).astype(np.float64) / 0.1
    total = 0.0
    for i in range(4):
        others = [j for j in range(4) if j == i or groups[j] != groups[i]]
        total -= scores[i, i] - math.log(sum(math.exp(scores[i, j]) for j in others))
        total -= scores[i, i] - math.log(sum(math.exp(scores[j, i]) for j in others))
    found = info_nce(torch.from_numpy(queries), torch.from_numpy(passages), torch.tensor(groups), 0.1)
    assert abs(found.item() - total / 8) < 1e-5


def test_score_divergence_equals_its_definition():
    sides = [torch.from_numpy(units(seed, 5)) for seed in range(4)]
    ours, theirs = (
        (queries @ passages.T).numpy().astype(np.float64) / 0.2
        for queries, passages in ((sides[0], sides[1]), (sides[2], sides[3]))
    )
    total = 0.0
    for a, b in ((ours, theirs), (ours.T, theirs.T)):
        for mine, target in zip(a, b, strict=True):
            p, q = log_softmax(target), log_softmax(mine)
            total += float((np.exp(p) * (p - q)).sum()) / 5
    found = score_divergence((sides[0], sides[1]), (sides[2], sides[3]), 0.2)
    assert abs(found.item() - total / 2) < 1e-5


def test_score_divergence_is_zero_only_for_equal_scores():
    queries, passages = torch.from_numpy(units(0, 5)), torch.from_numpy(units(1, 5))
    assert abs(score_divergence((queries, passages), (queries, passages), 0.1).item()) < 1e-6
    assert score_divergence((passages, queries), (queries, queries), 0.1).item() > 1e-3


def test_cosine_distance_ignores_length():
    rows = torch.from_numpy(units(0, 3))
    assert cosine_distance(rows * 5, rows).item() < 1e-6
    assert abs(cosine_distance(-rows, rows).item() - 2) < 1e-6


def test_prefixes_are_unit_slices():
    rows = torch.from_numpy(units(0, 3)) * 4
    whole, half = prefixes(rows, [8, 4])
    torch.testing.assert_close(whole, rows / 4)
    torch.testing.assert_close(half, rows[:, :4] / rows[:, :4].norm(dim=1, keepdim=True))
