"""The pooling kernels against their twin, in Triton's interpreter."""

from __future__ import annotations

import pytest
import torch

from decant.kernels.attention import PackedLayout
from decant.kernels.dispatch import KernelError
from decant.kernels.pooling import PoolMode, pool

BATCHES = {"one": [1], "short": [4, 1, 7, 3], "long": [70, 33, 5]}
MODES = ["mean", "weighted", "counted", "first", "last"]


def _keep(lengths: list[int]) -> torch.Tensor:
    """An instruction in front of each text, and a hole."""
    parts = [torch.arange(length) >= min(2, length - 1) for length in lengths]
    for part in parts:
        if len(part) > 4:
            part[3] = False
    return torch.cat(parts)


@pytest.mark.parametrize("masked", [False, True], ids=["all", "kept"])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("mode", MODES)
def test_agrees_with_its_twin(mode: str, batch: str, masked: bool) -> None:
    lengths = BATCHES[batch]
    layout = PackedLayout.from_lengths(lengths, causal=False)
    hidden = torch.randn(sum(lengths), 37, generator=torch.Generator().manual_seed(0))
    keep = _keep(lengths) if masked else None
    if keep is not None:
        hidden[~keep] = float("nan")  # what is not pooled is not read
    name = "weighted" if mode == "counted" else mode
    for dimensions, normalize in ((None, True), (20, True), (20, False)):
        options = {
            "mode": name, "count_kept": mode == "counted", "dimensions": dimensions, "normalize": normalize
        }  # fmt: skip
        got = pool(hidden, layout, keep, implementation="triton", **options)
        want = pool(torch.nan_to_num(hidden), layout, keep, implementation="torch", **options)
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("batch", ["short", "long"])
@pytest.mark.parametrize("mode", MODES)
def test_gradients_agree_with_its_twins(mode: str, batch: str) -> None:
    lengths = BATCHES[batch]
    layout = PackedLayout.from_lengths(lengths, causal=False)
    name = "weighted" if mode == "counted" else mode
    gradients: list[torch.Tensor] = []
    for implementation in ("triton", "torch"):
        hidden = torch.randn(sum(lengths), 37, generator=torch.Generator().manual_seed(0)).requires_grad_()
        out = pool(
            hidden, layout, _keep(lengths), mode=name, count_kept=mode == "counted", dimensions=20, normalize=True,
            implementation=implementation,
        )  # fmt: skip
        (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum().backward()
        assert hidden.grad is not None
        gradients.append(hidden.grad)
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-6)


def test_half_precision_is_pooled_in_float32() -> None:
    hidden = torch.randn(300, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    layout = PackedLayout.from_lengths([300], causal=False)
    got = pool(hidden, layout, mode="mean", normalize=True, implementation="triton")
    want = pool(hidden.float(), layout, mode="mean", normalize=True, implementation="torch")
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "last"])
def test_a_mask_may_have_strides(mode: PoolMode) -> None:
    lengths = BATCHES["short"]
    layout, keep = PackedLayout.from_lengths(lengths, causal=False), _keep(lengths)
    hidden = torch.randn(sum(lengths), 8, generator=torch.Generator().manual_seed(0))
    strided = torch.stack([keep, ~keep], 1)[:, 0]
    got, want = (pool(hidden, layout, mask, mode=mode, implementation="triton") for mask in (strided, keep))
    assert torch.equal(got, want)


def test_max_is_refused() -> None:
    with pytest.raises(KernelError, match="max pooling has no kernel"):
        pool(torch.zeros(1, 4), PackedLayout.from_lengths([1], causal=False), mode="max", implementation="triton")


def test_tokens_beyond_int32_elements_are_found() -> None:
    reach = 2**31 // 2 + 64
    storage = torch.empty(2 * reach + 8, dtype=torch.float16)
    hidden = storage.as_strided((3, 8), (reach, 1))
    fresh = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).half()
    hidden.copy_(fresh)
    layout = PackedLayout.from_lengths([1, 2], causal=False)
    for mode in ("mean", "last"):
        got = pool(hidden, layout, mode=mode, implementation="triton")
        assert torch.equal(got, pool(fresh, layout, mode=mode, implementation="triton"))
