"""How many threads compute: no more than this process may use processors, whatever the machine has."""

from __future__ import annotations

import torch
from joblib import cpu_count


def limit_threads(share: int = 1) -> int:
    """Take threads from PyTorch that would only stand in each other's way, and return how many are left.

    PyTorch starts one for each of the machine's processors. Where a container may use the time of two of 64, all of
    them are stopped whenever those two are used up. A number set with OMP_NUM_THREADS is lowered as well, never raised.

    Args:
        share: processes that share the processors.
    """
    torch.set_num_threads(max(1, min(torch.get_num_threads(), cpu_count() // share)))
    return torch.get_num_threads()
