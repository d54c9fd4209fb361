"""Where each sequence lies in a packed batch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby

import torch
from torch import Tensor, nn
from torch.nn import functional

from .ragged import Ragged


@dataclass(frozen=True)
class PackedLayout:
    """Describes a batch whose sequences lie end to end, without padding, in tensors of (total_tokens, ...).

    Attributes:
        cu_seqlens: (batch + 1,) int32 on the batch's device; sequence i holds tokens cu_seqlens[i]:cu_seqlens[i+1].
        max_seqlen: length of the longest sequence.
        runs: (first token, number of sequences, their length) for each run of neighbours of equal length. A batch
            sorted by length has few runs, and each is a dense (n, length) block that needs no padding.
        causal: whether a token sees only what precedes it.
        filling: tokens behind all runs that are one more sequence in `cu_seqlens`; what they become is never read.
        tables: kernels' tables where they are not to be made of the runs.
        trace: where verification wants to know which modules attended, each call appends its module.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    runs: tuple[tuple[int, int, int], ...]
    causal: bool
    trace: list[nn.Module] | None = None
    filling: int = 0
    tables: Ragged | None = None

    @classmethod
    def from_lengths(
        cls,
        lengths: list[int],
        *,
        causal: bool,
        device: torch.device | str = "cpu",
        trace: list[nn.Module] | None = None,
    ) -> PackedLayout:
        """Lay out sequences of these lengths in this order.

        Raises:
            ValueError: for an empty batch or a sequence without tokens.
        """
        if not lengths or min(lengths) < 1:
            raise ValueError("a packed batch needs sequences, and each of them a token")
        ends = torch.tensor([0, *lengths]).cumsum(0)
        runs: list[tuple[int, int, int]] = []
        start = 0
        for length, group in groupby(lengths):
            count = len(list(group))
            runs.append((start, count, length))
            start += count * length
        return cls(ends.to(torch.int32).to(device), max(lengths), tuple(runs), causal, trace)

    @property
    def total_tokens(self) -> int:
        """Number of tokens in the batch."""
        start, count, length = self.runs[-1] if self.runs else (0, 0, 0)
        return start + count * length + self.filling

    @property
    def batch_size(self) -> int:
        """Number of sequences in the batch."""
        return self.cu_seqlens.shape[0] - 1

    @cached_property
    def ragged(self) -> Ragged:
        """Tables for kernels, made at the first use and shared by all layers."""
        if self.tables is not None:
            return self.tables
        lengths = self.lengths_on_host()
        return Ragged(lengths, lengths, self.cu_seqlens.device)

    def lengths_on_host(self) -> list[int]:
        """Length of each sequence, without the filling; the device is not asked."""
        return [length for _, count, length in self.runs for _ in range(count)]

    def filled(self, rows: int) -> PackedLayout:
        """Return the layout of `rows` tokens: these and, behind them, some that nobody attends to or asks for."""
        ends = functional.pad(self.cu_seqlens, (0, 1), value=rows)
        filling = rows - self.total_tokens
        return replace(self, cu_seqlens=ends, max_seqlen=max(self.max_seqlen, filling), filling=filling)

    def lengths(self) -> Tensor:
        """Length of each sequence, (batch,) int64."""
        return self.cu_seqlens.diff().long()

    def sequence_ids(self) -> Tensor:
        """Index of the sequence each token belongs to, (total_tokens,) int64."""
        batch = torch.arange(self.batch_size, device=self.cu_seqlens.device)
        return batch.repeat_interleave(self.lengths(), output_size=self.total_tokens)

    def position_ids(self) -> Tensor:
        """Position of each token in its sequence, from 0, (total_tokens,) int64."""
        starts = self.cu_seqlens[:-1].long()
        tokens = torch.arange(self.total_tokens, device=starts.device)
        return tokens - starts[self.sequence_ids()]
