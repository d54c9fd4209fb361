"""Split attention over cached context against its twin, and the twin against a softmax written out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from decant.kernels.cross_attention import CrossLayout, cross_attention, packed_cross_attention

BATCHES = {
    "one": ([1], [1]),
    "long": ([2], [100]),
    "mixed": ([3, 1, 10, 2], [40, 5, 33, 70]),
    "no-context": ([2, 3], [0, 9]),
    "no-queries": ([0, 2], [40, 17]),
    "nothing": ([2, 1], [0, 0]),
}
HEADS = {"equal": (2, 2), "grouped": (4, 2), "one-key-head": (3, 1), "wide-group": (24, 1)}


def _inputs(batch: str, heads: str, dim: int = 16) -> tuple[list[Tensor], CrossLayout]:
    queries, context = BATCHES[batch]
    generator = torch.Generator().manual_seed(0)
    many, few = HEADS[heads]
    shapes = ((sum(queries), many, dim), (sum(context), few, dim), (sum(context), few, dim))
    tensors = [torch.randn(*s, generator=generator).transpose(0, 1).requires_grad_() for s in shapes]
    return tensors, CrossLayout(queries, context)


@pytest.mark.parametrize("batch", BATCHES)
def test_twin_is_softmax_over_the_context(batch: str) -> None:
    (query, key, value), layout = _inputs(batch, "grouped")
    out, lse = packed_cross_attention(query, key, value, layout, scale=0.3)
    first = begin = 0
    for queries, context in zip(*BATCHES[batch], strict=True):
        for i in range(first, first + queries):
            for head in range(4):
                if not context:
                    assert out[i, head].abs().max() == 0 and lse[head, i] == -torch.inf
                    continue
                keys = key[head // 2, begin : begin + context]
                scores = keys @ query[head, i] * 0.3
                torch.testing.assert_close(out[i, head], scores.softmax(0) @ value[head // 2, begin : begin + context])
                torch.testing.assert_close(lse[head, i], scores.logsumexp(0))
        first, begin = first + queries, begin + context


@pytest.mark.parametrize(
    ("batch", "heads", "softcap"),
    [*((batch, "grouped", None) for batch in BATCHES), *(("long", heads, 1.5) for heads in HEADS)],
)
def test_kernel_agrees_with_its_twin(batch: str, heads: str, softcap: float | None) -> None:
    inputs, layout = _inputs(batch, heads)
    results: list[list[Tensor]] = []
    for implementation in ("triton", "torch"):
        leaves = [x.detach().requires_grad_() for x in inputs]
        out, lse = cross_attention(*leaves, layout, scale=0.3, softcap=softcap, implementation=implementation)
        seen = lse.isfinite()
        loss = (out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() + lse[seen].sum()
        results.append([out.detach(), lse.detach(), *torch.autograd.grad(loss, leaves)])
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("workers", [1, 3, 1000])
@pytest.mark.parametrize("batch", BATCHES)
def test_shares_are_equal_and_cover_the_context(batch: str, workers: int) -> None:
    queries, context = BATCHES[batch]
    plan = CrossLayout(queries, context).split(kv_heads=2, block_queries=8, block_keys=16, workers=workers)
    assert len(plan.shares) - 1 <= workers
    work = [0] * (len(plan.shares) - 1)
    for worker in range(len(work)):
        for row in plan.segments[plan.shares[worker] : plan.shares[worker + 1]].tolist():
            work[worker] += -(-(row[3] - row[2]) // 16)
    assert not work or all(tiles == max(work) for tiles in work[:-1])
    for first, last, head, slot, end in plan.merges.tolist():
        parts = plan.segments[slot:end].tolist()
        assert all(part[:2] == [first, last] and part[4] == head for part in parts)
        keys = [key for part in parts for key in range(part[2], part[3])]
        sequence = next(i for i in range(len(queries)) if first < sum(queries[: i + 1]))
        assert keys == list(range(sum(context[:sequence]), sum(context[: sequence + 1])))


def test_context_beyond_int32_elements_is_followed() -> None:
    reach = 2**31 + 64
    storage = torch.empty(reach + 20 * 16, dtype=torch.float16)
    key = storage.as_strided((2, 20, 16), (reach, 16, 1))
    fresh = torch.randn(2, 20, 16, generator=torch.Generator().manual_seed(0)).half()
    key.copy_(fresh)
    query, layout = fresh[:, :2], CrossLayout([2], [20])
    got, _ = cross_attention(query, key, key, layout, scale=0.3, implementation="triton")
    want, _ = cross_attention(query, fresh, fresh, layout, scale=0.3, implementation="triton")
    assert torch.equal(got, want)
