"""How many rows a float32 tensor on a CPU needs for each of them to come out the same whatever the others are.

Three things round a row differently when its neighbours change. Two go by the number of rows alone:
- the BLAS has other inner loops for a handful of rows, and for the handful that is left over when threads share them;
- PyTorch cuts what it computes element by element into one piece per thread, and the end of a piece that is no whole
  vector register is computed with the C library's functions, whose last bits are others.
Rows of anything, appended until neither happens, make a vector the same to the last bit alone and in every batch.
The third is where a matrix begins in memory: on several threads the BLAS has other loops for one that begins within a
cache line, as every other sequence's does where a head is no whole lines wide. Zeros make it so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

# Measured with MKL for AVX2 and AVX-512: products of fewer rows differ, on one thread and on several.
LEAST, LEAST_OF_SEVERAL = 4, 12
# PyTorch's: elements that a thread gets at least, and floats of the two vector registers that its loops step by.
_GRAIN, _STEP = 32768, 32
# From this many elements on GELU goes to all threads, however little each of them gets.
_GELU_SHARED = 16384
# Floats of a cache line.
_LINE = 16


def alike_rows(rows: int, widths: Sequence[int], *, gelu: bool = False) -> int:
    """Return how many rows to compute in place of `rows`.

    Args:
        rows: rows there are.
        widths: columns of the tensors that go through functions computed element by element.
        gelu: whether GELU is one of these.
    """
    enough = max(rows, _least())
    while not all(_whole_vectors(enough * width, gelu=gelu) for width in widths):
        enough += 1
    return enough


def computed_alike(function: Callable[[Tensor], Tensor], rows: Tensor) -> Tensor:
    """Apply a linear map to (rows, in) so that each row is rounded as it is among any others."""
    missing = _least() - len(rows)
    if missing <= 0 or not rounds_by_rows(rows.dtype, rows.device):
        return function(rows)
    return function(functional.pad(rows, (0, 0, 0, missing)))[: len(rows)]


def aligned(heads: Tensor) -> Tensor:
    """Widen (..., D) by zeros to whole cache lines, which changes neither inner products nor sums of rows."""
    return heads if heads.shape[-1] % _LINE == 0 else functional.pad(heads, (0, -heads.shape[-1] % _LINE))


def rounds_by_rows(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the number of rows matters: in float32 on a CPU, and to those who do not train."""
    return dtype == torch.float32 and device.type == "cpu" and not torch.is_grad_enabled()


def _least() -> int:
    return LEAST if torch.get_num_threads() == 1 else LEAST_OF_SEVERAL


def _whole_vectors(elements: int, *, gelu: bool) -> bool:
    """Whether each thread's piece of so many elements is made of whole steps; a width of no whole steps never is."""
    if elements % _STEP:
        return True
    threads = torch.get_num_threads()
    pieces = {min(threads, -(-elements // _GRAIN))}
    if gelu and elements > _GELU_SHARED:
        pieces.add(threads)
    return all(-(-elements // count) % _STEP == 0 for count in pieces)
