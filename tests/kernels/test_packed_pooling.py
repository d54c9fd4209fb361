"""Pooling over packed batches against one line of NumPy per text."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from decant.kernels.attention import PackedLayout
from decant.kernels.pooling import pool_edge, pool_max, pool_mean

Array = NDArray[np.float64]
BATCHES = [[1], [4, 4, 4], [1, 5, 5, 2, 1, 7]]

# (states of one text, positions from 0 of its kept tokens) -> its vector
BY_HAND: dict[str, Callable[[Array, NDArray[np.int64]], Array]] = {
    "mean": lambda states, kept: states[kept].mean(0),
    "weighted": lambda states, kept: (states[kept] * (kept + 1)[:, None]).sum(0) / (kept + 1).sum(),
    "max": lambda states, kept: states[kept].max(0),
    "first": lambda states, kept: states[kept[0]],
    "last": lambda states, kept: states[kept[-1]],
}
PACKED: dict[str, Callable[[Tensor, PackedLayout, Tensor | None], Tensor]] = {
    "mean": pool_mean,
    "weighted": lambda hidden, layout, keep: pool_mean(hidden, layout, keep, weighted=True),
    "max": pool_max,
    "first": lambda hidden, layout, keep: pool_edge(hidden, layout, keep, last=False),
    "last": lambda hidden, layout, keep: pool_edge(hidden, layout, keep, last=True),
}


def _keep(lengths: list[int]) -> Tensor:
    """Random tokens, at least one per text, now and then all."""
    generator = torch.Generator().manual_seed(1)
    parts = [torch.rand(n, generator=generator) < 0.5 for n in lengths]
    for i, part in enumerate(parts):
        part[i % len(part)] = True
    return torch.cat(parts)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "kept"])
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize("mode", BY_HAND)
def test_each_text_is_pooled_alone(mode: str, lengths: list[int], masked: bool) -> None:
    hidden = torch.randn(sum(lengths), 6, generator=torch.Generator().manual_seed(0))
    layout = PackedLayout.from_lengths(lengths, causal=False)
    keep = _keep(lengths) if masked else None
    got = PACKED[mode](hidden, layout, keep)
    starts = np.cumsum([0, *lengths])
    kept = np.ones(sum(lengths), bool) if keep is None else keep.numpy()
    want = [
        BY_HAND[mode](hidden.numpy().astype(np.float64)[a:b], np.flatnonzero(kept[a:b]))
        for a, b in zip(starts, starts[1:], strict=False)
    ]
    assert got.dtype is torch.float32
    np.testing.assert_allclose(got.numpy(), np.array(want), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", BY_HAND)
def test_half_precision_states_are_pooled_in_float32(mode: str) -> None:
    hidden = torch.randn(300, 4, generator=torch.Generator().manual_seed(0)).bfloat16()
    layout = PackedLayout.from_lengths([300], causal=False)
    got, want = PACKED[mode](hidden, layout, None), PACKED[mode](hidden.float(), layout, None)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", ["max", "first", "last"])
def test_gradients_reach_the_pooled_tokens_only(mode: str) -> None:
    lengths = [3, 1, 4]
    hidden = torch.randn(8, 5, requires_grad=True, generator=torch.Generator().manual_seed(0))
    keep = _keep(lengths)
    PACKED[mode](hidden, PackedLayout.from_lengths(lengths, causal=False), keep).sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[~keep].abs().max() == 0
    assert hidden.grad.sum() == pytest.approx(3 * 5), "one unit per text and dimension"
