"""What it takes for each row of a float32 tensor on a CPU to come out the same whatever the others are.

Four things round a row differently when its neighbours change:
- the BLAS: MKL adds up in another order for few rows, which on some processors means hundreds, and where it shares a
  long sum among threads. oneDNN does so for a single row only, so linear layers are its (`LinearByOneDnn`);
- oneDNN's single row;
- PyTorch cuts what it computes element by element into one piece per thread, and the end of a piece that is no whole
  vector register is computed with the C library's functions, whose last bits are others;
- where a matrix begins in memory: on several threads the BLAS has other loops for one that begins within a cache line,
  as every other sequence's does where a head is no whole lines wide. Zeros make it so.
Rows of anything, appended until the second and third do not happen, make a vector the same to the last bit alone and
in every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

# Measured with oneDNN for AVX2 and AVX-512, inner widths of 32 to 8,960, 1 to 64 threads: a product of one row differs.
LEAST = 2
# PyTorch's: elements that a thread gets at least, and floats of the two vector registers that its loops step by.
_GRAIN, _STEP = 32768, 32
# From this many elements on GELU goes to all threads, however little each of them gets.
_GELU_SHARED = 16384
# Floats of a cache line.
_LINE = 16
_HAS_ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def alike_rows(rows: int, widths: Sequence[int], *, gelu: bool = False) -> int:
    """Return how many rows to compute in place of `rows`.

    Args:
        rows: rows there are.
        widths: columns of the tensors that go through functions computed element by element.
        gelu: whether GELU is one of these.
    """
    enough = max(rows, LEAST)
    while not all(_whole_vectors(enough * width, gelu=gelu) for width in widths):
        enough += 1
    return enough


def computed_alike(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Apply linear layers to (rows, in) so that each row is rounded as it is among any others."""
    if not rounds_by_rows(rows.dtype, rows.device):
        return function(rows)
    filled = rows if len(rows) >= LEAST else functional.pad(rows, (0, 0, 0, LEAST - len(rows)))
    with LinearByOneDnn():
        return function(filled)[: len(rows)]


class LinearByOneDnn(TorchFunctionMode):
    """While it is on, this thread's linear layers of float32 on a CPU are computed by oneDNN and not by the BLAS.

    Their weights stay as they are. Where PyTorch has no oneDNN nothing changes.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is functional.linear:
            return _linear(*args, **(kwargs or {}))
        if func is torch.addmm and not kwargs:  # GPT-2's layers, whose weights lie the other way
            bias, x, weight = args
            return _linear(x, weight.t(), bias)
        return func(*args, **(kwargs or {}))


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    plain = type(weight) in (Tensor, nn.Parameter) and weight.dtype is input.dtype
    if not (_HAS_ONEDNN and plain and input.dim() > 1 and rounds_by_rows(input.dtype, input.device)):
        return functional.linear(input, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")


def aligned(heads: Tensor) -> Tensor:
    """Widen (..., D) by zeros to whole cache lines, which changes neither inner products nor sums of rows."""
    return heads if heads.shape[-1] % _LINE == 0 else functional.pad(heads, (0, -heads.shape[-1] % _LINE))


def rounds_by_rows(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the number of rows matters: in float32 on a CPU, and to those who do not train."""
    return dtype == torch.float32 and device.type == "cpu" and not torch.is_grad_enabled()


def _whole_vectors(elements: int, *, gelu: bool) -> bool:
    """Whether each thread's piece of so many elements is made of whole steps; a width of no whole steps never is."""
    if elements % _STEP:
        return True
    threads = torch.get_num_threads()
    pieces = {min(threads, -(-elements // _GRAIN))}
    if gelu and elements > _GELU_SHARED:
        pieces.add(threads)
    return all(-(-elements // count) % _STEP == 0 for count in pieces)
