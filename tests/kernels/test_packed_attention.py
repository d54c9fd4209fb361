"""Packed attention against a softmax written out text by text, forward and gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from decant.kernels.attention import PackedLayout, half, packed, packed_attention, register
from decant.kernels.attention.interface import _attention_forward

RAGGED = [1, 3, 3, 8, 1, 5]
SHAPES = {"heads": (4, 4), "grouped": (4, 2), "single": (6, 1)}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 2},
    "window-1": {"window": 1},
    "wide-window": {"window": 100},
    "softcap": {"softcap": 1.5},
    "sinks": {"sinks": True},
    "all": {"window": 3, "softcap": 2.0, "sinks": True},
}


def _inputs(heads: int, kv_heads: int, lengths: list[int], value_dim: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    total = sum(lengths)
    shapes = ((heads, total, 8), (kv_heads, total, 8), (kv_heads, total, value_dim))
    query, key, value = (torch.randn(*s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes)
    return query, key, value


def _by_definition(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    *,
    causal: bool,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
) -> Tensor:
    """One query token and one head at a time, over the set of keys it may see."""
    heads, group = query.shape[0], query.shape[0] // key.shape[0]
    rows: list[Tensor] = []
    start = 0
    for length in lengths:
        for i in range(length):
            first = 0 if window is None else max(0, i - (window - 1 if causal else window))
            last = i if causal else length - 1 if window is None else min(length - 1, i + window)
            seen = slice(start + first, start + last + 1)
            outputs: list[Tensor] = []
            for head in range(heads):
                scores = key[head // group, seen] @ query[head, start + i] * 0.3
                if softcap is not None:
                    scores = softcap * (scores / softcap).tanh()
                shares = scores.exp()
                rest = 0 if sinks is None else sinks[head].exp()
                outputs.append(shares @ value[head // group, seen] / (shares.sum() + rest))
            rows.append(torch.stack(outputs))
        start += length
    return torch.stack(rows)


@pytest.mark.parametrize("causal", [False, True], ids=["bidirectional", "causal"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_is_softmax_over_what_a_token_may_see(variant: str, shape: str, causal: bool) -> None:
    heads, kv_heads = SHAPES[shape]
    options = dict(VARIANTS[variant])
    if options.pop("sinks", False):
        options["sinks"] = torch.linspace(-1, 2, heads, dtype=torch.float64).requires_grad_()
    inputs = _inputs(heads, kv_heads, RAGGED)
    got = packed_attention(*inputs, PackedLayout.from_lengths(RAGGED, causal=causal), scale=0.3, **options)
    want = _by_definition(*inputs, RAGGED, causal=causal, **options)
    # Scores with a cap or sinks are computed in float32 on purpose.
    precision = 1e-12 if set(options) <= {"window"} else 1e-6
    assert got.shape == (sum(RAGGED), heads, 8) and got.is_contiguous()
    torch.testing.assert_close(got, want, rtol=0, atol=precision)
    weights = torch.linspace(-1, 1, got.numel(), dtype=torch.float64).view_as(got)
    leaves = [*inputs, *([options["sinks"]] if "sinks" in options else [])]
    for mine, theirs in zip(
        torch.autograd.grad((got * weights).sum(), leaves),
        torch.autograd.grad((want * weights).sum(), leaves),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=max(precision, 1e-11))


@pytest.mark.parametrize("lengths", [[1], [1, 1], [7], [2, 1, 2]])
def test_any_ragged_batch(lengths: list[int]) -> None:
    inputs = _inputs(2, 2, lengths)
    got = packed_attention(*inputs, PackedLayout.from_lengths(lengths, causal=False), scale=0.3)
    torch.testing.assert_close(got, _by_definition(*inputs, lengths, causal=False), rtol=0, atol=1e-12)


def test_value_may_be_narrower_than_key() -> None:
    inputs = _inputs(4, 4, RAGGED, value_dim=3)
    got = packed_attention(*inputs, PackedLayout.from_lengths(RAGGED, causal=True), scale=0.3)
    assert got.shape == (sum(RAGGED), 4, 3)
    torch.testing.assert_close(got, _by_definition(*inputs, RAGGED, causal=True), rtol=0, atol=1e-12)


def test_half_precision_stays_within_rounding() -> None:
    inputs = [x.detach() for x in _inputs(4, 2, RAGGED)]
    layout = PackedLayout.from_lengths(RAGGED, causal=False)
    want = packed_attention(*inputs, layout, scale=0.3)
    for options in ({}, {"softcap": 50.0}):
        got = packed_attention(*(x.bfloat16() for x in inputs), layout, scale=0.3, **options)
        assert got.dtype is torch.bfloat16
        assert (got.double() - want).abs().max() < 0.03


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (3, 1)], ids=str)
@pytest.mark.parametrize("lengths", [[1], [37, 5, 5, 1], [300] * 5], ids=str)
def test_written_out_errs_at_most_twice_as_much_as_the_fused_kernel(
    heads: tuple[int, int], lengths: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = [x.detach() for x in _inputs(*heads, lengths)]
    layout = PackedLayout.from_lengths(lengths, causal=False)
    query, key, value = (x.bfloat16() for x in exact)
    want = packed_attention(*(x.bfloat16().double() for x in exact), layout, scale=0.3)
    with torch.inference_mode():
        assert half.suits(query, key, 0.3, layout.max_seqlen)
        got = packed_attention(query, key, value, layout, scale=0.3)
        monkeypatch.setattr(packed, "suits", lambda *_: False)
        fused = packed_attention(query, key, value, layout, scale=0.3)
    errors = [(x.double() - want).abs().mean().item() for x in (got, fused)]
    assert errors[0] <= 2 * errors[1] + 1e-3


@torch.inference_mode()
def test_large_scores_and_long_texts_are_left_to_the_fused_kernel() -> None:
    query, key, _ = (x.bfloat16() for x in _inputs(2, 2, [5]))
    assert half.suits(query, key, 0.3, 5)
    assert not half.suits(query * 100, key, 0.3, 5)
    assert not half.suits(query * float("nan"), key, 0.3, 5)
    assert not half.suits(query, key, 0.3, 2000)
    assert not half.suits(query.float(), key.float(), 0.3, 5)


def test_dropout_drops_and_rescales() -> None:
    query, key, _ = (x.detach() for x in _inputs(2, 2, [50]))
    ones = torch.ones(2, 50, 1, dtype=torch.float64)
    torch.manual_seed(0)
    for options in ({}, {"softcap": 2.0}):
        layout = PackedLayout.from_lengths([50], causal=False)
        got = packed_attention(query, key, ones, layout, scale=0.3, dropout=0.5, **options)
        assert got.std() > 0.01, "kept weights vary"
        assert abs(got.mean() - 1) < 0.1, "and still sum to one on average"


class TestInterface:
    @staticmethod
    def _call(**options: Any) -> Tensor:
        query, key, value = (x.detach()[None] for x in _inputs(2, 2, [3, 2]))
        mask = options.pop("attention_mask", None)
        out, weights = _attention_forward(nn.Module().eval(), query, key, value, mask, **options)
        assert weights is None
        return out

    def test_default_scale_is_root_of_width(self) -> None:
        layout = PackedLayout.from_lengths([3, 2], causal=True)
        inputs = [x.detach() for x in _inputs(2, 2, [3, 2])]
        want = packed_attention(*inputs, layout, scale=8**-0.5)
        assert torch.equal(self._call(packed=layout)[0], want)

    @pytest.mark.parametrize(
        ("options", "why"),
        [
            ({"packed": None}, "does not pass keyword arguments"),
            ({"attention_mask": torch.zeros(1, 1, 5, 5)}, "mask of its own"),
            ({"position_bias": torch.zeros(1)}, "needs position_bias"),
        ],
    )
    def test_what_it_would_have_to_ignore_is_refused(self, options: dict[str, Any], why: str) -> None:
        layout = PackedLayout.from_lengths([3, 2], causal=True)
        with pytest.raises(NotImplementedError, match=why):
            self._call(**{"packed": layout, **options})

    def test_dropout_only_when_training(self) -> None:
        layout = PackedLayout.from_lengths([3, 2], causal=True)
        assert torch.equal(self._call(packed=layout, dropout=0.9), self._call(packed=layout))

    def test_registering_twice_is_harmless(self) -> None:
        assert register() == register()


class TestLayout:
    def test_describes_every_token(self) -> None:
        layout = PackedLayout.from_lengths([3, 3, 1, 2], causal=False)
        assert layout.cu_seqlens.tolist() == [0, 3, 6, 7, 9] and layout.cu_seqlens.dtype is torch.int32
        assert layout.runs == ((0, 2, 3), (6, 1, 1), (7, 1, 2))
        assert (layout.max_seqlen, layout.total_tokens, layout.batch_size) == (3, 9, 4)
        assert layout.lengths().tolist() == [3, 3, 1, 2]
        assert layout.sequence_ids().tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3]
        assert layout.position_ids().tolist() == [0, 1, 2, 0, 1, 2, 0, 0, 1]

    @pytest.mark.parametrize("lengths", [[], [0], [3, 0, 2]])
    def test_empty_sequences_are_refused(self, lengths: list[int]) -> None:
        with pytest.raises(ValueError, match="each of them a token"):
            PackedLayout.from_lengths(lengths, causal=False)
