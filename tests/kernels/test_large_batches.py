"""A batch of 100,000 tokens in texts of odd lengths: each text is computed as it is alone."""

from __future__ import annotations

import random

import torch

from decant.kernels.attention import PackedLayout, attention
from decant.kernels.cross_attention import CrossLayout, cross_attention
from decant.kernels.pooling import max_logits, pool
from decant.kernels.quantize import calibrate, quantize

TOTAL = 100_003


def _layout() -> PackedLayout:
    chosen, lengths = random.Random(0), [513, 1]
    while sum(lengths) < TOTAL:
        lengths.append(min(chosen.choice([1, 3, 7, 17, 63]), TOTAL - sum(lengths)))
    return PackedLayout.from_lengths(sorted(lengths, reverse=True), causal=False)


def _some(layout: PackedLayout) -> list[tuple[int, slice]]:
    """First, last, and some texts between: which, and where their tokens lie."""
    ends = layout.cu_seqlens.tolist()
    return [(i, slice(ends[i], ends[i + 1])) for i in (0, 1, len(ends) // 2, len(ends) - 3, len(ends) - 2)]


def test_tiles_cover_every_token_once() -> None:
    layout = _layout()
    tiles = layout.ragged.tiles("queries", 64)
    rows = torch.cat([torch.arange(begin, end) for begin, end, *_ in tiles.tolist()])
    assert torch.equal(rows.sort().values, torch.arange(TOTAL))
    assert (tiles[:, 1] - tiles[:, 0]).max() <= 64


@torch.inference_mode()
def test_attention_and_pooling_of_each_text_alone() -> None:
    layout = _layout()
    query, key, value = torch.randn(3, 2, TOTAL, 16, generator=torch.Generator().manual_seed(0))
    got = attention(query, key, value, layout, scale=0.25)
    pooled = pool(got.flatten(1), layout, mode="mean")
    for text, rows in _some(layout):
        own = PackedLayout.from_lengths([rows.stop - rows.start], causal=False)
        alone = attention(query[:, rows], key[:, rows], value[:, rows], own, scale=0.25)
        torch.testing.assert_close(got[rows], alone, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(pooled[text], pool(alone.flatten(1), own, mode="mean")[0], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_terms_of_each_text_alone() -> None:
    layout = _layout()
    chosen = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(TOTAL, 16, generator=chosen), torch.randn(301, 16, generator=chosen)
    keep = torch.rand(TOTAL, generator=chosen) > 0.1
    got = max_logits(hidden, layout, keep, weight)
    for text, rows in _some(layout):
        own = PackedLayout.from_lengths([rows.stop - rows.start], causal=False)
        alone = max_logits(hidden[rows], own, keep[rows], weight)
        torch.testing.assert_close(got[text], alone[0], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_questions_over_long_context_see_their_own() -> None:
    context, queries = [TOTAL, 1, 0, 4099], [1, 3, 2, 5]
    layout = CrossLayout(queries, context)
    chosen = torch.Generator().manual_seed(0)
    query = torch.randn(4, sum(queries), 16, generator=chosen)
    key, value = torch.randn(2, 2, sum(context), 16, generator=chosen)
    got, lse = cross_attention(query, key, value, layout, scale=0.25)
    asked = read = 0
    for count, length in zip(queries, context, strict=True):
        mine, seen = slice(asked, asked + count), slice(read, read + length)
        asked, read = asked + count, read + length
        if not length:
            assert not got[mine].any() and torch.isneginf(lse[:, mine]).all()
            continue
        scores = 0.25 * query[:, mine] @ key[:, seen].repeat_interleave(2, 0).mT
        expected = (scores.softmax(-1) @ value[:, seen].repeat_interleave(2, 0)).transpose(0, 1)
        torch.testing.assert_close(got[mine], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(lse[:, mine], scores.logsumexp(-1), rtol=1e-5, atol=1e-5)


def test_a_long_context_is_shared_out_whole() -> None:
    plan = CrossLayout([1, 3], [TOTAL, 777]).split(kv_heads=2, block_queries=16, block_keys=64, workers=132)
    covered = torch.zeros(2, TOTAL + 777, dtype=torch.int32)
    for _, _, begin, end, head, _ in plan.segments.tolist():
        covered[head, begin:end] += 1
    assert (covered == 1).all()
    work = [
        sum(-(-(end - begin) // 64) for _, _, begin, end, *_ in plan.segments[first:last].tolist())
        for first, last in zip(plan.shares[:-1].tolist(), plan.shares[1:].tolist(), strict=True)
    ]
    assert len(work) == 132 and max(work) == -(-sum(work) // 132)


def test_quantization_of_each_row_alone() -> None:
    vectors = torch.randn(TOTAL, 8, generator=torch.Generator().manual_seed(0))
    ranges = calibrate(vectors[:100])
    codes = quantize(vectors, "int8", ranges)
    for row in (0, TOTAL // 2, TOTAL - 1):
        assert torch.equal(codes[row : row + 1], quantize(vectors[row : row + 1], "int8", ranges))
