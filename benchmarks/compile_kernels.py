"""Compile every kernel for GPUs that are not here: what the interpreter accepts and a compiler does not shows now.

    python benchmarks/compile_kernels.py [--capability 80 90 100] [--verbose]

Runs the kernels' own Python wrappers on small CPU tensors, but hands each launch to Triton's compiler with the stored
configuration of the target, down to machine code. Needs no GPU; says nothing about speed. Exits with 1 if a kernel
does not compile or wants more shared memory than the target has.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import Any

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from decant.kernels import configs
from decant.kernels.attention import PackedLayout
from decant.kernels.attention.triton_attention import AttentionOptions, triton_attention
from decant.kernels.cross_attention import CrossLayout
from decant.kernels.cross_attention.triton_cross import triton_cross_attention
from decant.kernels.pooling.triton_pool import triton_pool
from decant.kernels.pooling.triton_splade import SpladeOptions, triton_max_logits, triton_splade
from decant.kernels.quantize import Calibration
from decant.kernels.quantize.triton_quantize import triton_quantize

SHARED_KIB = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99}
TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int32: "i32", torch.int64: "i64",
    torch.uint8: "u8", torch.int8: "i8",
}  # fmt: skip
LENGTHS = [33, 17, 1]


class Compiler:
    """Takes the place of a launch: compiles once per kernel, constants and types."""

    def __init__(self, capability: int, verbose: bool) -> None:
        self.capability, self.verbose = capability, verbose
        self.seen: set[tuple[Any, ...]] = set()
        self.wrong: list[str] = []

    def __call__(self, kernel: JITFunction[Any], programs: int, heads: int, *arguments: Any, **constants: Any) -> None:
        """Compile the kernel as `configs.launch` would start it."""
        named = {**dict(zip(kernel.arg_names, arguments, strict=False)), **constants}
        options = {key: named.pop(key) for key in ("num_warps", "num_stages", "enable_fp_fusion") if key in named}
        constexprs = {p.name for p in kernel.params if p.is_constexpr}
        signature, values, attributes = {}, {}, {}
        for i, name in enumerate(kernel.arg_names):
            value = named[name]
            if name in constexprs or value is None:
                signature[name], values[(i,)] = "constexpr", value
            elif isinstance(value, Tensor):
                signature[name], attributes[(i,)] = f"*{TYPES[value.dtype]}", [["tt.divisibility", 16]]
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
        key = (kernel.fn.__name__, str(signature), str(values), str(options))
        if key in self.seen:
            return
        self.seen.add(key)
        label = f"sm{self.capability} {kernel.fn.__name__} " + " ".join(
            f"{kernel.arg_names[i]}={value}" for (i,), value in values.items() if value is not None
        )
        source = ASTSource(fn=kernel, signature=signature, constexprs=values, attrs=attributes)
        try:
            built = triton.compile(source, target=GPUTarget("cuda", self.capability, 32), options=options)
        except Exception as error:
            self.wrong.append(f"{label}: {str(error).splitlines()[-1] if str(error) else type(error).__name__}")
            return
        shared = built.metadata.shared / 1024
        if shared > SHARED_KIB.get(self.capability, 99):
            self.wrong.append(f"{label}: {shared:.0f} KiB of shared memory, {SHARED_KIB[self.capability]} there")
        if self.verbose:
            print(f"{label}: {shared:.0f} KiB shared")


def calls() -> list[Callable[[], object]]:
    """One call per kernel and variant that a model can ask for."""
    found: list[Callable[[], object]] = []
    layouts = {causal: PackedLayout.from_lengths(LENGTHS, causal=causal) for causal in (False, True)}
    total = sum(LENGTHS)

    def heads(count: int, rows: int, dim: int, dtype: torch.dtype) -> Tensor:
        return torch.zeros(rows, count, dim, dtype=dtype).transpose(0, 1).requires_grad_()

    def attend(dim: int, dtype: torch.dtype, options: AttentionOptions, sinks: bool) -> None:
        query, key, value = heads(4, total, dim, dtype), heads(2, total, dim, dtype), heads(2, total, dim, dtype)
        ragged = layouts[options.causal].ragged
        out, lse = triton_attention(query, key, value, ragged, options, torch.zeros(4) if sinks else None)
        (out.sum() + lse.sum()).backward()

    def cross(dim: int, dtype: torch.dtype) -> None:
        layout = CrossLayout([3, 1], [70, 40])
        out, _ = triton_cross_attention(
            heads(4, 4, dim, dtype), heads(2, 110, dim, dtype), heads(2, 110, dim, dtype), layout, scale=0.1
        )
        out.sum().backward()

    plain = AttentionOptions(0.1, causal=False)
    long = PackedLayout.from_lengths([600, 5], causal=False)
    half = torch.bfloat16
    for dtype, dims, widths in (
        (half, (32, 64, 80, 128, 256), (384, 1024, 4096)),
        (torch.float32, (64, 128, 256), (1024,)),
    ):
        for dim in dims:
            found.append(lambda dim=dim, dtype=dtype: attend(dim, dtype, plain, False))
            found.append(lambda dim=dim, dtype=dtype: cross(dim, dtype))
        for options in (
            AttentionOptions(0.1, causal=True),
            AttentionOptions(0.1, causal=True, window=64, softcap=50.0),
            AttentionOptions(0.1, causal=False, window=64),
        ):
            found.append(lambda options=options, dtype=dtype: attend(128, dtype, options, True))
        for width in widths:
            hidden = torch.zeros(total, width, dtype=dtype)
            states = torch.zeros(605, width, dtype=dtype)
            for mode in ("mean", "weighted", "last"):
                options_ = {"mode": mode, "count_kept": True, "dimensions": None, "normalize": True}
                keep = torch.ones(total, dtype=torch.bool)
                found.append(lambda h=hidden, k=keep, o=options_: triton_pool(h, layouts[False], k, **o))
                found.append(lambda h=states, o=options_: triton_pool(h, long, None, **o))
                grad = torch.zeros_like(hidden).requires_grad_()
                found.append(lambda h=grad, o=options_: triton_pool(h, layouts[False], None, **o).sum().backward())
            head = torch.zeros(1000, width, dtype=dtype)
            found.append(lambda h=hidden, w=head: triton_splade(h, layouts[False], None, w, None, SpladeOptions(1)))
            learned, taught = head.clone().requires_grad_(), hidden.clone().requires_grad_()
            keep = torch.ones(total, dtype=torch.bool)
            bias = torch.zeros(1000, dtype=dtype)
            found.append(
                lambda h=taught, w=learned, k=keep, b=bias: (
                    triton_max_logits(h, layouts[False], k, w, b).sum().backward()
                )
            )
    ranges = Calibration(torch.zeros(384), torch.ones(384))
    for kind in ("int8", "uint8", "binary"):
        found.append(lambda kind=kind: triton_quantize(torch.zeros(5, 384), kind, ranges))
    return found


def main() -> int:
    """Compile everything and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--capability", type=int, nargs="+", default=[90])
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    wrong = 0
    modules = [module for name, module in sys.modules.items() if name.startswith("decant.kernels.")]
    for capability in options.capability:
        compiler = Compiler(capability, options.verbose)
        configs.device_class = lambda device, family=f"sm{capability}": family
        for module in modules:
            if hasattr(module, "launch"):
                module.launch = compiler
        for call in calls():
            call()
        for line in compiler.wrong:
            print(line)
        print(f"sm{capability}: {len(compiler.seen)} kernels, {len(compiler.wrong)} do not compile or fit")
        wrong += len(compiler.wrong)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
