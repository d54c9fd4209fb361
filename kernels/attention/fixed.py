"""Tables of one size for batches of many shapes: what a recorded graph of kernels reads, exchanged between replays."""

from __future__ import annotations

import torch
from torch import Tensor

from .ragged import MAX_TOKENS, Ragged, Side


class FixedTables(Ragged):
    """`Ragged` of self-attention whose tables stay where they are in memory while what they describe changes.

    A table has room for as many tiles as any batch can need; those left over are empty, and so are their programs.

    Attributes:
        rows: tokens of every batch.
        most: sequences of a batch at most.
    """

    def __init__(self, lengths: list[int], most: int, device: torch.device) -> None:
        """Describe a first batch.

        Raises:
            ValueError: for more than `most` sequences.
        """
        super().__init__(lengths, lengths, device)
        self.rows, self.most = sum(lengths), most
        self._fixed: dict[tuple[Side, int, int], Tensor] = {}
        self._fixed_bounds: dict[Side, tuple[Tensor, Tensor]] = {}
        self._check(lengths)

    def load(self, lengths: list[int]) -> None:
        """Describe another batch, of as many tokens.

        Raises:
            ValueError: for another number of tokens, or more than `most` sequences.
        """
        self._check(lengths)
        now = Ragged(lengths, lengths, torch.device("cpu"))
        for (side, block, most), table in self._fixed.items():
            table.copy_(_sent(self._padded(now, side, block, most), self.device), non_blocking=True)
        for side, held in self._fixed_bounds.items():
            for bound, fresh in zip(held, now.bounds(side), strict=True):
                bound.copy_(_sent(fresh, self.device), non_blocking=True)
        self.queries, self.keys, self._ends = now.queries, now.keys, now._ends
        self._tiles.clear()
        self._bounds.clear()

    def tiles(self, side: Side, block: int, most: int = MAX_TOKENS) -> Tensor:
        """As `Ragged.tiles`, with empty tiles behind."""
        key = (side, block, most)
        if key not in self._fixed:
            now = Ragged(self.queries, self.keys, torch.device("cpu"))
            self._fixed[key] = self._padded(now, side, block, most).to(self.device)
        return self._fixed[key]

    def bounds(self, side: Side) -> tuple[Tensor, Tensor]:
        """As `Ragged.bounds`."""
        if side not in self._fixed_bounds:
            self._fixed_bounds[side] = super().bounds(side)
        return self._fixed_bounds[side]

    def _padded(self, ragged: Ragged, side: Side, block: int, most: int) -> Tensor:
        # Each tile but the last of a group of sequences is whole.
        room = self.rows // block + self.most
        found = ragged.tiles(side, block, most)
        return torch.cat([found, found.new_zeros(room - len(found), found.shape[1])])

    def _check(self, lengths: list[int]) -> None:
        if sum(lengths) != self.rows or len(lengths) > self.most:
            raise ValueError(f"made for {self.rows} tokens of at most {self.most} sequences")


def _sent(table: Tensor, device: torch.device) -> Tensor:
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table
