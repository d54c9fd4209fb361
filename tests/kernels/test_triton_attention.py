"""The attention kernels against their twin: forward, log-sum-exp and gradients, in Triton's interpreter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from decant.kernels.attention import PackedLayout, Ragged, attention, attention_lse, packed_attention_lse
from decant.kernels.dispatch import KernelError

LENGTHS = {"one": [1], "ones": [1, 1, 1], "odd": [37], "mixed": [33, 17, 16, 5, 5, 1], "short": [7, 6, 5, 4, 3, 2, 1]}
HEADS = {"equal": (2, 2), "grouped": (4, 2), "one-key-head": (3, 1)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 3},
    "wide-window": {"window": 100},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": True},
    "all": {"window": 9, "softcap": 2.0, "sinks": True},
}


def _inputs(heads: int, kv_heads: int, total: int, dim: int, value_dim: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    # Token by token, as projections lay them out: the kernel sees strides.
    shapes = ((total, heads, dim), (total, kv_heads, dim), (total, kv_heads, value_dim))
    return [torch.randn(*s, generator=generator).to(dtype).transpose(0, 1).requires_grad_() for s in shapes]


def _forward_and_gradients(
    implementation: str, inputs: list[Tensor], layout: PackedLayout, options: dict[str, Any]
) -> list[Tensor]:
    leaves = [x.detach().requires_grad_() for x in inputs]
    sinks = leaves[3] if len(leaves) > 3 else None
    out, lse = attention_lse(
        leaves[0], leaves[1], leaves[2], layout, scale=0.3, sinks=sinks, implementation=implementation, **options
    )
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    loss = (out.float() * weights).sum() + (lse * torch.linspace(0, 1, lse.numel()).view_as(lse)).sum()
    return [out.detach(), lse.detach(), *torch.autograd.grad(loss, leaves)]


def _compare(lengths: list[int], heads: str, variant: str, causal: bool, dim: int = 16, value_dim: int = 16) -> None:
    options = dict(VARIANTS[variant])
    inputs = _inputs(*HEADS[heads], sum(lengths), dim, value_dim, torch.float32)
    if options.pop("sinks", False):
        inputs.append(torch.linspace(-1, 2, HEADS[heads][0]))
    layout = PackedLayout.from_lengths(lengths, causal=causal)
    got = _forward_and_gradients("triton", inputs, layout, options)
    want = _forward_and_gradients("torch", inputs, layout, options)
    names = ("out", "lse", "d_query", "d_key", "d_value", "d_sinks")
    for name, mine, theirs in zip(names, got, want, strict=False):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_any_lengths(lengths: str, causal: bool) -> None:
    _compare(LENGTHS[lengths], "grouped", "plain", causal)


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_any_variant(variant: str, causal: bool) -> None:
    _compare(LENGTHS["mixed"], "equal", variant, causal)


def test_sinks_may_have_strides() -> None:
    query, key, value = _inputs(2, 2, 9, 16, 16, torch.float32)
    layout, sinks = PackedLayout.from_lengths([9], causal=False), torch.tensor([[1.0, 50.0], [2.0, 50.0]])[:, 0]
    got = attention(query, key, value, layout, scale=0.3, sinks=sinks, implementation="triton")
    want = attention(query, key, value, layout, scale=0.3, sinks=sinks, implementation="torch")
    torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("heads", HEADS)
def test_any_grouping(heads: str) -> None:
    _compare([19, 3], heads, "plain", False)


@pytest.mark.parametrize("dims", [(8, 8), (24, 24), (64, 32), (256, 256)], ids=str)
def test_any_head_dimension(dims: tuple[int, int]) -> None:
    _compare([18, 2], "equal", "plain", True, *dims)


def test_half_precision_errs_at_most_twice_as_much_as_the_twin() -> None:
    """In float16: the interpreter has no product of bfloat16."""
    dtype = torch.float16
    layout = PackedLayout.from_lengths([40, 9, 1], causal=False)
    inputs = _inputs(4, 2, 50, 32, 32, dtype)
    exact = _forward_and_gradients("torch", [x.detach().float() for x in inputs], layout, {})
    twin = _forward_and_gradients("torch", inputs, layout, {})
    mine = _forward_and_gradients("triton", inputs, layout, {})
    assert mine[0].dtype is dtype and mine[2].dtype is dtype
    for a, b, c in zip(mine, twin, exact, strict=True):
        assert (a.float() - c).abs().max() <= 2 * (b.float() - c).abs().max() + 1e-3


def test_strides_beyond_int32_are_followed() -> None:
    """Query heads 2^31 elements apart: an offset computed in 32 bits would wrap around."""
    reach = 2**31 + 64
    storage = torch.empty(reach + 5 * 16, dtype=torch.float16)  # pages that nobody touches cost nothing
    query = storage.as_strided((2, 5, 16), (reach, 16, 1))
    fresh = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).half()
    query.copy_(fresh)
    layout = PackedLayout.from_lengths([3, 2], causal=False)
    key = fresh.flip(0)
    got = attention(query, key, key, layout, scale=0.3, implementation="triton")
    want = attention(fresh, key, key, layout, scale=0.3, implementation="triton")
    assert torch.equal(got, want)


def test_no_neighbour_leaks_into_a_shared_tile() -> None:
    inputs = [x.detach() for x in _inputs(2, 2, 9, 16, 16, torch.float32)]
    layout = PackedLayout.from_lengths([4, 5], causal=False)
    before = attention(*inputs, layout, scale=0.3, implementation="triton")
    for x in inputs:
        x[:, 4:] = 1e15
    after = attention(*inputs, layout, scale=0.3, implementation="triton")
    assert torch.equal(before[:4], after[:4])


def test_twin_lse_merges_parts() -> None:
    """The two halves of the keys, merged by their log-sum-exp, are attention over all of them."""
    query, key, value = (x.detach() for x in _inputs(2, 2, 6, 8, 8, torch.float32))
    whole, lse = packed_attention_lse(query, key, value, PackedLayout.from_lengths([6], causal=False), scale=0.3)
    torch.testing.assert_close(lse, (query @ key.mT * 0.3).logsumexp(-1))
    torch.testing.assert_close(whole.transpose(0, 1), (query @ key.mT * 0.3).softmax(-1) @ value)


class TestTiles:
    def test_short_sequences_share_a_tile_and_long_ones_are_cut(self) -> None:
        ragged = Ragged([20, 4, 3, 0, 2], [20, 4, 3, 0, 2], torch.device("cpu"))
        table = sorted(ragged.tiles("queries", 8).tolist())
        assert table == [
            [0, 8, 0, 20, 0, 1],
            [8, 16, 0, 20, 0, 1],
            [16, 20, 0, 20, 0, 1],
            [20, 27, 20, 27, 1, 4],
            [27, 29, 27, 29, 4, 5],
        ]

    def test_every_row_is_in_one_tile(self) -> None:
        generator = torch.Generator().manual_seed(0)
        for _ in range(50):
            rows = torch.randint(0, 40, (12,), generator=generator).tolist()
            keys = torch.randint(0, 40, (12,), generator=generator).tolist()
            ragged = Ragged(rows, keys, torch.device("cpu"))
            for side, lengths, others in (("queries", rows, keys), ("keys", keys, rows)):
                covered = [row for tile in ragged.tiles(side, 16, most=3).tolist() for row in range(tile[0], tile[1])]
                assert sorted(covered) == list(range(sum(lengths)))
                for begin, end, first, stop, sequence, last in ragged.tiles(side, 16, most=3).tolist():
                    assert end - begin <= 16 and last - sequence <= 3
                    assert (first, stop) == (sum(others[:sequence]), sum(others[:last]))

    def test_longest_first(self) -> None:
        tiles = Ragged([3, 90, 20], [3, 90, 20], torch.device("cpu")).tiles("queries", 16)
        work = (tiles[:, 3] - tiles[:, 2]).tolist()
        assert work == sorted(work, reverse=True)

    def test_more_tokens_than_int32_are_refused(self) -> None:
        with pytest.raises(ValueError, match="at most 2147483647 tokens"):
            Ragged([2**31], [1], torch.device("cpu"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dropout": 0.5}, "dropout"),
        ({"dtype": torch.float64}, "float64"),
        ({"dim": 320}, "above 256"),
        ({"dtype": torch.bfloat16}, "multiplies no bfloat16"),
    ],
    ids=str,
)
def test_what_the_kernel_cannot_do_is_refused_when_asked_for(change: dict[str, Any], why: str) -> None:
    dim = change.get("dim", 16)
    inputs = [x.detach() for x in _inputs(2, 2, 4, dim, dim, change.get("dtype", torch.float32))]
    layout = PackedLayout.from_lengths([4], causal=False)
    with pytest.raises(KernelError, match=why):
        attention(*inputs, layout, scale=0.3, dropout=change.get("dropout", 0.0), implementation="triton")
