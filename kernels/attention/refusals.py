"""What the attention kernels do not compute."""

from __future__ import annotations

import torch
from torch import Tensor

MAX_HEAD_DIM = 256


def refusal(query: Tensor, key: Tensor, value: Tensor, dropout: float = 0.0) -> str | None:
    """Why the kernel cannot compute this call; None where it can."""
    if dropout:
        return "attention dropout has no kernel"
    if not query.dtype == key.dtype == value.dtype:
        return "query, key and value differ in dtype"
    if query.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"{str(query.dtype).removeprefix('torch.')} has no kernel"
    if max(query.shape[-1], value.shape[-1]) > MAX_HEAD_DIM:
        return f"head dimensions above {MAX_HEAD_DIM} have no kernel"
    if query.dtype == torch.bfloat16 and query.device.type == "cpu":
        return "Triton's interpreter multiplies no bfloat16"
    return None
