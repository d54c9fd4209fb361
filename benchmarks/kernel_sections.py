"""The kernel benchmark's sections: for each kernel a check against its twin, and a race."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from encoder_section import race_encoders
from measuring import Bench, disagreement
from torch import Tensor
from torch.nn import functional

from decant.kernels.attention import PackedLayout, attention_lse
from decant.kernels.cross_attention import CrossLayout, cross_attention
from decant.kernels.pooling import max_logits, pool, splade
from decant.kernels.quantize import calibrate, quantize

# Query heads, key heads, head dimension.
ATTENTION_SHAPES = {"mistral-7b": (32, 8, 128), "qwen3-0.6b": (16, 8, 128), "decant-mini": (6, 6, 64)}


def seeded(bench: Bench, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Random numbers, the same in every run."""
    generator = torch.Generator(bench.device).manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator, device=bench.device).to(
        half(bench) if dtype is torch.bfloat16 else dtype
    )


def half(bench: Bench) -> torch.dtype:
    """The interpreter multiplies no bfloat16."""
    return torch.bfloat16 if bench.device.type == "cuda" else torch.float16


def lengths_of(bench: Bench, kind: str) -> list[int]:
    """Sequence lengths that add up to about 32,768 tokens, longest first."""
    total = 64 if bench.toy else 32768
    if kind == "mixed":
        rng = np.random.default_rng(0)
        drawn = np.clip(rng.lognormal(4.5, 1.0, 4 * total), 4, 4096).astype(int)
        drawn = drawn[: max(1, int(np.searchsorted(drawn.cumsum(), total)))]
        return sorted((int(min(n, total)) for n in drawn), reverse=True)
    length = min(int(kind), total)
    return [length] * max(1, total // length)


def heads_of(bench: Bench, heads: tuple[int, int, int], rows: int) -> list[Tensor]:
    """Query, key, value, (heads, rows, D), laid out token by token."""
    many, few, dim = heads
    return [seeded(bench, rows + i, n, dim)[:rows].transpose(0, 1) for i, n in enumerate((many, few, few))]


def check_attention(bench: Bench) -> list[str]:
    """Forward and gradients of every variant against the twin in full precision."""
    variants: list[dict[str, Any]] = [
        {},
        {"causal": True},
        {"window": 7},
        {"causal": True, "window": 9, "softcap": 5.0},
    ]
    cases = [(heads, options) for heads in ((4, 4, 64), (8, 2, 128)) for options in variants]
    cases += [((2, 2, dim), {}) for dim in (32, 80, 96, 256)]
    wrong: list[str] = []
    for dtype in {half(bench), torch.float32}:
        for heads, given in cases[:2] if bench.toy else cases:
            options = dict(given)
            lengths = [37, 5, 1] if bench.toy else [700, 255, 64, 17, 12, 5, 1, 1]
            layout = PackedLayout.from_lengths(lengths, causal=options.pop("causal", False), device=bench.device)
            inputs = [x.to(dtype) for x in heads_of(bench, heads, sum(lengths))]
            found = {}
            for name, which, kind in (
                ("mine", "triton", dtype),
                ("twin", "torch", dtype),
                ("exact", "torch", torch.float32),
            ):
                leaves = [x.detach().to(kind).requires_grad_() for x in inputs]
                out, lse = attention_lse(*leaves, layout, scale=0.1, implementation=which, **options)
                loss = (
                    out.float() * torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)
                ).sum() + lse.sum()
                found[name] = [out.detach(), lse.detach(), *torch.autograd.grad(loss, leaves)]
            for part, mine, twin, exact in zip(("out", "lse", "dq", "dk", "dv"), *found.values(), strict=True):
                if problem := disagreement(mine, twin, exact):
                    wrong.append(f"{part} {heads} {given} {dtype}: {problem}")
    return wrong


def padded(x: Tensor, layout: PackedLayout) -> Tensor:
    """(heads, tokens, D) as (batch, heads, longest, D), padded at the end."""
    out = x.new_zeros(layout.batch_size, layout.max_seqlen, x.shape[0], x.shape[2])
    out[layout.sequence_ids(), layout.position_ids()] = x.transpose(0, 1)
    return out.transpose(1, 2)


def race_attention(bench: Bench) -> None:
    """Against SDPA on padded and nested batches, torch's and flash-attn's variable-length attention."""
    shapes = dict(list(ATTENTION_SHAPES.items())[-1:]) if bench.toy else ATTENTION_SHAPES
    for model, heads in shapes.items():
        for kind in ("512", "4096", "mixed", "12"):
            lengths = lengths_of(bench, kind)
            layout = PackedLayout.from_lengths(lengths, causal=False, device=bench.device)
            inputs = heads_of(bench, heads, layout.total_tokens)
            flops = 4.0 * heads[0] * heads[2] * sum(n * n for n in lengths)
            calls = attention_calls(inputs, layout)
            for name, call in calls.items():
                bench.measure("attention", f"{model} {kind}", name, call, flops=flops)
            if kind in ("512", "mixed"):
                race_backward(bench, f"{model} {kind}", inputs, layout, 2.5 * flops)


def attention_calls(inputs: list[Tensor], layout: PackedLayout) -> dict[str, Callable[[], object]]:
    """Contestants by name, ours first."""
    query, key, value = inputs
    scale, group = query.shape[-1] ** -0.5, query.shape[0] != key.shape[0]

    def ours() -> Tensor:
        return attention_lse(query, key, value, layout, scale=scale, implementation="triton")[0]

    calls: dict[str, Callable[[], object]] = {"decant": ours}
    if layout.batch_size * layout.max_seqlen <= 8 * layout.total_tokens:
        q, k, v = (padded(x, layout) for x in inputs)
        steps = torch.arange(layout.max_seqlen, device=query.device)
        mask = (steps < layout.lengths()[:, None])[:, None, None]
        equal = len(layout.runs) == 1
        calls["sdpa padded"] = lambda: functional.scaled_dot_product_attention(
            q, k, v, attn_mask=None if equal else mask, scale=scale, enable_gqa=group
        )
    nested = [
        torch.nested.nested_tensor_from_jagged(x.transpose(0, 1).contiguous(), layout.cu_seqlens.long()).transpose(1, 2)
        for x in (query, *(x.repeat_interleave(query.shape[0] // x.shape[0], 0) for x in (key, value)))
    ]
    calls["sdpa nested"] = lambda: functional.scaled_dot_product_attention(*nested, scale=scale)
    rows = [x.transpose(0, 1).contiguous() for x in inputs]
    repeated = [rows[0], *(x.repeat_interleave(query.shape[0] // x.shape[1], 1) for x in rows[1:])]
    cu, longest = layout.cu_seqlens, layout.max_seqlen
    if find_spec("torch.nn.attention.varlen"):
        from torch.nn.attention.varlen import varlen_attn

        calls["torch varlen"] = lambda: varlen_attn(*repeated, cu, cu, longest, longest, scale=scale)
    if find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        calls["flash-attn"] = lambda: flash_attn_varlen_func(*rows, cu, cu, longest, longest, softmax_scale=scale)
    return calls


def race_backward(bench: Bench, case: str, inputs: list[Tensor], layout: PackedLayout, flops: float) -> None:
    """Gradients alone."""
    leaves = [x.detach().requires_grad_() for x in inputs]
    out, _ = attention_lse(*leaves, layout, scale=0.1, implementation="triton")
    grad = torch.randn_like(out)
    ours = lambda: torch.autograd.grad(out, leaves, grad, retain_graph=True)  # noqa: E731
    bench.measure("attention backward", case, "decant", ours, flops=flops)
    if layout.batch_size * layout.max_seqlen > 8 * layout.total_tokens:
        return
    q, k, v = (padded(x.detach(), layout).requires_grad_() for x in inputs)
    mask = (torch.arange(layout.max_seqlen, device=q.device) < layout.lengths()[:, None])[:, None, None]
    theirs = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=None if len(layout.runs) == 1 else mask, scale=0.1, enable_gqa=q.shape[1] != k.shape[1]
    )
    d = torch.randn_like(theirs)
    call = lambda: torch.autograd.grad(theirs, (q, k, v), d, retain_graph=True)  # noqa: E731
    bench.measure("attention backward", case, "sdpa padded", call, flops=flops)


def check_cross(bench: Bench) -> list[str]:
    """A few queries over contexts of all lengths, one of them empty."""
    wrong: list[str] = []
    layout = CrossLayout([3, 1, 4], [50, 0, 9] if bench.toy else [5000, 0, 77], bench.device)
    for heads in ((4, 4, 64), (8, 2, 128)):
        query = heads_of(bench, heads, 8)[0]
        _, key, value = heads_of(bench, heads, sum(layout.context))
        found = {}
        for name, which, dtype in (
            ("mine", "triton", query.dtype),
            ("twin", "torch", query.dtype),
            ("exact", "torch", torch.float32),
        ):
            leaves = [x.detach().to(dtype).requires_grad_() for x in (query, key, value)]
            out, lse = cross_attention(*leaves, layout, scale=0.1, implementation=which)
            loss = (out.float() * torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)).sum()
            found[name] = [out.detach(), lse.detach(), *torch.autograd.grad(loss, leaves)]
        for part, mine, twin, exact in zip(("out", "lse", "dq", "dk", "dv"), *found.values(), strict=True):
            if problem := disagreement(mine, twin, exact):
                wrong.append(f"{part} {heads}: {problem}")
    return wrong


def race_cross(bench: Bench) -> None:
    """A question of 16 tokens and one token of an answer over long cached context."""
    size = 64 if bench.toy else 65536
    heads = ATTENTION_SHAPES["mistral-7b"] if not bench.toy else (4, 2, 64)
    for queries in (1, 16):
        for kind, context in {"one": [size], "unequal": [size // 2, size // 4, size // 8, 5]}.items():
            layout = CrossLayout([queries] * len(context), context, bench.device)
            query = heads_of(bench, heads, queries * len(context))[0]
            _, key, value = heads_of(bench, heads, sum(context))
            moved = 2.0 * key.numel() * key.element_size()
            case = f"{queries} queries, {kind}"
            for name, which in (("decant", "triton"), ("eager", "torch")):
                call = lambda which=which: cross_attention(query, key, value, layout, scale=0.1, implementation=which)  # noqa: B023, E731
                bench.measure("cross_attention", case, name, call, bytes_=moved)
            if len(context) == 1:
                q, k, v = (x[None].contiguous() for x in (query, key, value))
                call = lambda: functional.scaled_dot_product_attention(q, k, v, scale=0.1, enable_gqa=True)  # noqa: B023, E731
                bench.measure("cross_attention", case, "sdpa", call, bytes_=moved)


def check_pooling(bench: Bench) -> list[str]:
    """Every mode, all tokens and without an instruction, short and long."""
    wrong: list[str] = []
    for lengths in ([40, 3, 1], [40] if bench.toy else [3000, 700, 9]):
        layout = PackedLayout.from_lengths(lengths, causal=False, device=bench.device)
        hidden = seeded(bench, layout.total_tokens, 100 if bench.toy else 4096)
        keep = layout.position_ids() >= (layout.lengths() > 4)[layout.sequence_ids()].long() * 3
        for mode in ("mean", "weighted", "first", "last"):
            for options in ({}, {"normalize": True, "dimensions": 64}):
                mine = pool(hidden, layout, keep, mode=mode, implementation="triton", **options)
                exact = pool(hidden.float(), layout, keep, mode=mode, implementation="torch", **options)
                if problem := disagreement(mine, exact, exact, 1e-4):
                    wrong.append(f"{mode} {lengths} {options}: {problem}")
    return wrong


def race_pooling(bench: Bench) -> None:
    """Mean and unit length, against the twin and torch.compile over padded and over packed states."""
    for width in (64,) if bench.toy else (384, 1024, 4096):
        for kind in ("512", "mixed", "12"):
            layout = PackedLayout.from_lengths(lengths_of(bench, kind), causal=False, device=bench.device)
            hidden = seeded(bench, layout.total_tokens, width)
            ids, lengths = layout.sequence_ids(), layout.lengths()[:, None]

            def packed(hidden: Tensor = hidden, ids: Tensor = ids, lengths: Tensor = lengths) -> Tensor:
                sums = hidden.new_zeros(len(lengths), hidden.shape[1], dtype=torch.float32)
                return functional.normalize(sums.index_add_(0, ids, hidden.float()) / lengths, dim=-1)

            moved = float(hidden.numel() * hidden.element_size())
            case = f"{width} {kind}"
            for name, which in (("decant", "triton"), ("eager twin", "torch")):
                call = lambda which=which: pool(hidden, layout, mode="mean", normalize=True, implementation=which)  # noqa: B023, E731
                bench.measure("pooling", case, name, call, bytes_=moved)
            bench.measure("pooling", case, "index_add", packed, bytes_=moved)
            if not bench.toy:
                bench.measure("pooling", case, "torch.compile", torch.compile(packed), bytes_=moved)


def check_splade(bench: Bench) -> list[str]:
    """Maxima and gradients, texts of all lengths."""
    layout = PackedLayout.from_lengths(
        [40, 7, 1] if bench.toy else [900, 300, 40, 7, 1, 1], causal=False, device=bench.device
    )
    width, terms = (32, 50) if bench.toy else (1024, 5003)
    hidden, weight = seeded(bench, layout.total_tokens, width), seeded(bench, terms, width)
    found = {}
    for name, which, dtype in (
        ("mine", "triton", hidden.dtype),
        ("twin", "torch", hidden.dtype),
        ("exact", "torch", torch.float32),
    ):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (hidden, weight)]
        found[name] = [max_logits(leaves[0], layout, None, leaves[1], implementation=which)]
        if dtype != torch.float32:
            continue
    wrong = [p for p in [disagreement(*(found[n][0].detach() for n in ("mine", "twin", "exact")))] if p]
    # Which token wins may differ in half precision, so gradients are compared in full precision.
    both = []
    for which in ("triton", "torch"):
        leaves = [x.detach().float().requires_grad_() for x in (hidden, weight)]
        out = max_logits(leaves[0], layout, None, leaves[1], implementation=which)
        both.append(
            torch.autograd.grad(
                (out * torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out)).sum(), leaves
            )
        )
    for part, mine, twin in zip(("d hidden", "d weight"), *both, strict=True):
        if problem := disagreement(mine, twin, twin):
            wrong.append(f"{part}: {problem}")
    return wrong


def race_splade(bench: Bench) -> None:
    """Against the product alone, which no method can be faster than, the twin, and torch.compile of the plain form."""
    for model, (width, terms) in {
        "mini": (384, 16384),
        "qwen3-0.6b": (1024, 151936),
        "mistral-7b": (4096, 32768),
    }.items():
        if bench.toy and model != "mini":
            continue
        width, terms = (32, 100) if bench.toy else (width, terms)
        weight = seeded(bench, terms, width)
        for kind in ("512", "mixed", "12"):
            lengths = lengths_of(bench, kind)
            lengths = lengths[:: max(1, sum(lengths) // 8192)] if not bench.toy else lengths
            layout = PackedLayout.from_lengths(lengths, causal=False, device=bench.device)
            hidden = seeded(bench, layout.total_tokens, width)
            flops, case = 2.0 * hidden.numel() * terms, f"{model} {kind}"

            def plain(hidden: Tensor = hidden, layout: PackedLayout = layout, weight: Tensor = weight) -> Tensor:
                logits = torch.log1p(torch.relu(hidden @ weight.T))
                out = logits.new_zeros(layout.batch_size, weight.shape[0])
                return out.scatter_reduce_(0, layout.sequence_ids()[:, None].expand_as(logits), logits, "amax")

            for name, which in (("decant", "triton"), ("eager twin", "torch")):
                call = lambda which=which: splade(hidden, layout, None, weight, implementation=which)  # noqa: B023, E731
                bench.measure("splade", case, name, call, flops=flops)
            bench.measure("splade", case, "product alone", lambda: hidden @ weight.T, flops=flops)  # noqa: B023
            if hidden.shape[0] * terms < 2**30 and not bench.toy:
                bench.measure("splade", case, "eager", plain, flops=flops)
                bench.measure("splade", case, "torch.compile", torch.compile(plain), flops=flops)


def check_quantize(bench: Bench) -> list[str]:
    """Codes must be the twin's, bit for bit."""
    vectors = seeded(bench, 100, 387, dtype=torch.float32)
    ranges = calibrate(vectors[:50])
    kinds = ("int8", "uint8", "binary")
    same = {k: [quantize(vectors, k, ranges, implementation=i) for i in ("triton", "torch")] for k in kinds}
    return [f"{kind}: codes differ" for kind, pair in same.items() if not torch.equal(*pair)]


def race_quantize(bench: Bench) -> None:
    """A million vectors, read once."""
    vectors = seeded(bench, 100 if bench.toy else 2**18, 1024 if not bench.toy else 64, dtype=torch.float32)
    ranges = calibrate(vectors[:1000])
    for kind in ("int8", "binary"):
        moved = vectors.numel() * (5.0 if kind == "int8" else 4.125)
        for name, which in (("decant", "triton"), ("eager twin", "torch")):
            call = lambda kind=kind, which=which: quantize(vectors, kind, ranges, implementation=which)  # noqa: E731
            bench.measure("quantize", kind, name, call, bytes_=moved)


Section = tuple[Callable[[Bench], list[str]], Callable[[Bench], None]]
SECTIONS: dict[str, Section] = {
    "attention": (check_attention, race_attention),
    "pooling": (check_pooling, race_pooling),
    "splade": (check_splade, race_splade),
    "cross_attention": (check_cross, race_cross),
    "quantize": (check_quantize, race_quantize),
    "encoder": (lambda _: [], race_encoders),
}
