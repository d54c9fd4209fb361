"""The SPLADE kernels against their twin: maxima, term weights and gradients, in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from decant.kernels.attention import PackedLayout
from decant.kernels.pooling import max_logits, splade

BATCHES = {"one": [1], "short": [4, 1, 7, 3, 1, 1, 2], "long": [40, 16, 2], "tile": [16, 16]}


def _inputs(lengths: list[int], bias: bool, H: int = 20, V: int = 37) -> tuple[list[Tensor], PackedLayout]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(sum(lengths), H), (V, H), *([(V,)] if bias else [])]
    tensors = [torch.randn(*shape, generator=generator) for shape in shapes]
    return tensors, PackedLayout.from_lengths(lengths, causal=False)


def _keep(lengths: list[int]) -> Tensor:
    """A special token in front of each text; a text of one token keeps nothing."""
    return torch.cat([torch.arange(length) > 0 for length in lengths])


@pytest.mark.parametrize("masked", [False, True], ids=["all", "kept"])
@pytest.mark.parametrize("batch", BATCHES)
def test_maxima_and_gradients(batch: str, masked: bool) -> None:
    inputs, layout = _inputs(BATCHES[batch], bias=masked)
    keep = _keep(BATCHES[batch]) if masked else None
    results: list[list[Tensor]] = []
    for implementation in ("triton", "torch"):
        leaves = [x.clone().requires_grad_() for x in inputs]
        bias = leaves[2] if len(leaves) > 2 else None
        out = max_logits(leaves[0], layout, keep, leaves[1], bias, implementation=implementation)
        weights = torch.linspace(-1, 1, out.numel()).view_as(out)
        loss = torch.where(out.isfinite(), out * weights, 0.0).sum()
        results.append([out.detach(), *torch.autograd.grad(loss, leaves)])
    assert masked or torch.isfinite(results[0][0]).all()
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"double_log": True},
        {"scale": 0.5, "softcap": 2.0},
        {"top_k": 5},
        {"scale": 2.0, "double_log": True, "top_k": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch", ["short", "long"])
def test_term_weights(batch: str, options: dict[str, Any]) -> None:
    (hidden, weight, bias), layout = _inputs(BATCHES[batch], bias=True)
    keep = _keep(BATCHES[batch])
    got = splade(hidden, layout, keep, weight, bias, implementation="triton", **options)
    want = splade(hidden, layout, keep, weight, bias, implementation="torch", **options)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    assert (got >= 0).all() and got.max() > 0
    if "top_k" in options:
        assert ((got > 0).sum(1) <= options["top_k"]).all()


def test_mask_and_bias_may_have_strides() -> None:
    (hidden, weight, bias), layout = _inputs(BATCHES["short"], bias=True)
    keep = _keep(BATCHES["short"])
    other_keep, other_bias = torch.stack([keep, ~keep], 1)[:, 0], torch.stack([bias, -bias], 1)[:, 0]
    got, want = (
        max_logits(hidden, layout, mask, weight, terms, implementation="triton")
        for mask, terms in ((other_keep, other_bias), (keep, bias))
    )
    assert torch.equal(got, want)


def test_training_gets_gradients_through_the_weights() -> None:
    (hidden, weight), layout = _inputs(BATCHES["short"], bias=False)
    gradients: list[Tensor] = []
    for implementation in ("triton", "torch"):
        leaf = hidden.clone().requires_grad_()
        splade(leaf, layout, None, weight, double_log=True, implementation=implementation).sum().backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_of_equal_logits_the_first_gets_the_gradient_of_one() -> None:
    hidden = torch.ones(5, 4, requires_grad=True)
    layout = PackedLayout.from_lengths([3, 2], causal=False)
    max_logits(hidden, layout, None, torch.ones(2, 4), implementation="triton").sum().backward()
    assert hidden.grad is not None
    assert hidden.grad[:, 0].tolist() == [2.0, 0.0, 0.0, 2.0, 0.0]


def test_head_beyond_int32_elements_is_read() -> None:
    reach = 2**30 + 64
    storage = torch.empty(2 * reach + 16, dtype=torch.float16)
    weight = storage.as_strided((3, 16), (reach, 1))
    fresh = torch.randn(3, 16, generator=torch.Generator().manual_seed(0)).half()
    weight.copy_(fresh)
    hidden, layout = fresh[:2], PackedLayout.from_lengths([2], causal=False)
    got = max_logits(hidden, layout, None, weight, implementation="triton")
    assert torch.equal(got, max_logits(hidden, layout, None, fresh, implementation="triton"))
