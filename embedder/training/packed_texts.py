"""Token ids of several texts end to end: what every forward of a training takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...kernels.attention import PackedLayout


@dataclass(frozen=True)
class PackedTexts:
    """Texts end to end, longest first, so that equal lengths are neighbours.

    Attributes:
        input_ids: (total_tokens,) int64.
        lengths: tokens of each text, in packed order.
        restore: (texts,) int64; `vectors[restore]` brings per-text rows back into the order that was asked for.
        pool_from: (texts,) int64 in packed order, the first token of each text that is pooled; None for all tokens.
    """

    input_ids: Tensor
    lengths: list[int]
    restore: Tensor
    pool_from: Tensor | None = None

    @classmethod
    def of(cls, rows: Sequence[NDArray[np.integer]], pool_from: NDArray[np.integer] | None = None) -> Self:
        """Packs rows of token ids; `pool_from` (texts,) is in their order."""
        lengths = np.asarray([len(row) for row in rows])
        order = np.argsort(-lengths, kind="stable")
        restore = np.empty_like(order)
        restore[order] = np.arange(len(order))
        ids = torch.from_numpy(np.concatenate([rows[i] for i in order]).astype(np.int64))
        starts = None
        if pool_from is not None and pool_from.any():
            starts = torch.from_numpy(pool_from[order].astype(np.int64))
        return cls(ids, lengths[order].tolist(), torch.from_numpy(restore), starts)

    def __len__(self) -> int:
        return len(self.lengths)

    def layout(self, *, causal: bool) -> PackedLayout:
        """Where each text lies."""
        return PackedLayout.from_lengths(self.lengths, causal=causal, device=self.input_ids.device)

    def keep(self, layout: PackedLayout) -> Tensor | None:
        """(total_tokens,) bool, the tokens that are pooled; None for all."""
        if self.pool_from is None:
            return None
        return layout.position_ids() >= self.pool_from[layout.sequence_ids()]

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        if device == self.input_ids.device:
            return self
        starts = None if self.pool_from is None else self.pool_from.to(device)
        return replace(self, input_ids=self.input_ids.to(device), restore=self.restore.to(device), pool_from=starts)
