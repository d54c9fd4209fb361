"""Searching block sizes on a GPU, once, for the table that ships: `kernel_speed.py --autotune`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch
from kernel_sections import ATTENTION_SHAPES, heads_of, lengths_of, seeded
from measuring import Bench

from decant.kernels import configs
from decant.kernels.attention import PackedLayout, attention_lse
from decant.kernels.cross_attention import CrossLayout, cross_attention
from decant.kernels.pooling import pool, splade

Call = Callable[[], object]
SEARCH: dict[str, dict[str, tuple[int, ...]]] = {
    "attention_fwd": {"BM": (64, 128), "BN": (32, 64, 128), "num_warps": (4, 8), "num_stages": (2, 3, 4)},
    "splade_fwd": {
        "BM": (128,), "BV": (128, 256), "BH": (32, 64), "SPAN": (8, 32), "num_warps": (4, 8), "num_stages": (3, 4),
    },
    "cross_attention": {"BM": (16,), "BN": (32, 64, 128), "num_warps": (2, 4), "num_stages": (2, 3, 4)},
    "pool_fwd": {"BT": (2, 4, 8, 16), "num_warps": (2, 4, 8), "num_stages": (2, 3)},
    "pool_chunk": {
        "CHUNK": (128, 256, 512), "BW": (128, 256, 512), "BT": (8, 16, 32), "num_warps": (2, 4), "num_stages": (2,),
    },
    "attention_bwd_dkv": {"BM": (32, 64, 128), "BN": (32, 64, 128), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
    "attention_bwd_dq": {"BM": (32, 64, 128), "BN": (32, 64), "num_warps": (4, 8), "num_stages": (1, 2, 3)},
}  # fmt: skip


def autotune(bench: Bench, file: Path) -> None:
    """Try every combination on typical input, keep the fastest, and write the whole table with this device's class.

    What does not compile or fit is skipped. Written after each kernel: a deadline loses only what is not done.
    """
    table = json.loads(configs.FILE.read_text(encoding="utf-8"))
    own = table.setdefault(configs.device_class(bench.device), {})
    for kernel, size, call in typical(bench):
        if bench.time_left() < 30:
            print(f"no time left to tune {kernel} {size}", flush=True)
            break
        best, found = float("inf"), None
        for entry in candidates(kernel, bench.toy):
            if bench.time_left() < 15:
                break
            try:
                with_config(kernel, entry)
                ms = bench.milliseconds(call)
            except Exception as error:
                print(f"  {kernel} {size} {entry}: {type(error).__name__}")
                continue
            if ms < best:
                best, found = ms, entry
        configs._resolve.cache_clear()
        configs.table.cache_clear()
        if found:
            own.setdefault(kernel, {})[str(size)] = found
            print(f"tuned {kernel} {size}: {found} {best:.3f} ms", flush=True)
            file.write_text(json.dumps(table, indent=1), encoding="utf-8")


def candidates(kernel: str, toy: bool) -> Iterator[dict[str, int]]:
    """Combinations of the search space; of a toy run the first two."""
    names = list(SEARCH[kernel])
    for i, values in enumerate(product(*SEARCH[kernel].values())):
        if not toy or i < 2:
            yield dict(zip(names, values, strict=True))


def with_config(kernel: str, entry: dict[str, int]) -> None:
    """Make the lookup answer with this entry for this kernel."""
    configs._resolve.cache_clear()
    configs.table.cache_clear()
    table = configs.table()
    for kernels in table.values():
        if kernel in kernels:
            kernels[kernel] = dict.fromkeys(kernels[kernel], configs.parse(entry))


def typical(bench: Bench) -> Iterator[tuple[str, int, Call]]:
    """Kernel, size it is stored under, and a call that is mostly that kernel."""
    layout = PackedLayout.from_lengths(lengths_of(bench, "mixed"), causal=False, device=bench.device)
    for heads in (ATTENTION_SHAPES["mistral-7b"], ATTENTION_SHAPES["decant-mini"]):
        if bench.toy:
            heads = (2, 2, heads[2])
        inputs = heads_of(bench, heads, layout.total_tokens)
        scale = heads[2] ** -0.5
        yield (
            "attention_fwd",
            heads[2],
            lambda i=inputs, s=scale: attention_lse(*i, layout, scale=s, implementation="triton"),
        )
    for width, terms in ((1024, 151936), (4096, 32768)):
        width, terms = (32, 64) if bench.toy else (width, terms)
        hidden, weight = seeded(bench, layout.total_tokens, width)[:8192], seeded(bench, terms, width)
        part = PackedLayout.from_lengths(lengths_within(layout, hidden.shape[0]), causal=False, device=bench.device)
        yield (
            "splade_fwd",
            width,
            lambda h=hidden, p=part, w=weight: splade(h[: p.total_tokens], p, None, w, implementation="triton"),
        )
    for width in (384, 1024, 4096):
        for kernel, kind in (("pool_fwd", "12"), ("pool_chunk", "4096")):
            long = PackedLayout.from_lengths(lengths_of(bench, kind), causal=False, device=bench.device)
            hidden = seeded(bench, long.total_tokens, 32 if bench.toy else width)
            size = 8192 if kernel == "pool_chunk" else width
            yield (
                kernel,
                size,
                lambda h=hidden, p=long: pool(h, p, mode="mean", normalize=True, implementation="triton"),
            )
    context = CrossLayout([16], [64 if bench.toy else 65536], bench.device)
    heads = (4, 2, 64) if bench.toy else ATTENTION_SHAPES["mistral-7b"]
    query, (_, key, value) = heads_of(bench, heads, 16)[0], heads_of(bench, heads, context.context[0])
    yield (
        "cross_attention",
        heads[2],
        lambda: cross_attention(query, key, value, context, scale=0.1, implementation="triton"),
    )
    for heads in (ATTENTION_SHAPES["mistral-7b"], ATTENTION_SHAPES["decant-mini"]):
        if bench.toy:
            heads = (2, 2, heads[2])
        leaves = [x.detach().requires_grad_() for x in heads_of(bench, heads, layout.total_tokens)]
        out, _ = attention_lse(*leaves, layout, scale=0.1, implementation="triton")
        grad = torch.randn_like(out)
        for kernel in ("attention_bwd_dkv", "attention_bwd_dq"):
            yield kernel, heads[2], lambda o=out, x=leaves, g=grad: torch.autograd.grad(o, x, g, retain_graph=True)


def lengths_within(layout: PackedLayout, tokens: int) -> list[int]:
    """The shortest of a layout's sequences that fit."""
    lengths: list[int] = []
    for length in reversed(layout.ragged.queries):
        if sum(lengths) + length > tokens:
            break
        lengths.append(length)
    return lengths
