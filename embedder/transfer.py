"""To the device and back without waiting for it: a GPU computes one batch while the host prepares the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def sent(array: NDArray[Any], device: torch.device) -> Tensor:
    """Return an array as a tensor on `device`; a GPU fetches it from pinned memory while the host goes on."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


class Rows:
    """float32 rows that come from a device batch by batch; nobody waits for them before the last."""

    def __init__(self, count: int, width: int, device: torch.device) -> None:
        """Make room for (count, width) on the host."""
        self._device = device
        self._rows = torch.empty(count, width, dtype=torch.float32, pin_memory=device.type == "cuda")
        self._filled = 0

    def add(self, rows: Tensor) -> None:
        """Append (n, width) rows of the device."""
        end = self._filled + len(rows)
        self._rows[self._filled : end].copy_(rows, non_blocking=True)
        self._filled = end

    def in_order(self, place: NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the rows as (count, width), the i-th that came at `place[i]`; waits for the device."""
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()
        ordered = np.empty(self._rows.shape, np.float32)
        ordered[place] = self._rows.numpy()
        return ordered
