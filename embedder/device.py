"""Where an encoder computes and in which number format."""

from __future__ import annotations

import torch

from .errors import ModelError

_DTYPES = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}


def choose_device(device: str | torch.device | None) -> torch.device:
    """Return the device asked for, or the best one here.

    Raises:
        ModelError: if it is not there.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise ModelError(f"device {device} cannot be used: {str(error).splitlines()[0]}") from None
    return chosen


def choose_dtype(dtype: str | torch.dtype | None, device: torch.device) -> torch.dtype:
    """Return the dtype asked for, or the fastest that keeps the vectors: bfloat16 where the hardware multiplies it.

    Raises:
        ModelError: for a name that is no floating dtype.
    """
    if isinstance(dtype, torch.dtype):
        return dtype
    if dtype is not None:
        if dtype not in _DTYPES:
            raise ModelError(f"unknown dtype {dtype!r}: choose from {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if device.type == "cuda":
        return torch.bfloat16 if _gpu_multiplies_bfloat16(device) else torch.float32
    return torch.bfloat16 if _cpu_multiplies_bfloat16() else torch.float32


def _gpu_multiplies_bfloat16(device: torch.device) -> bool:
    # PyTorch goes by the current device, and by default counts what it emulates.
    with torch.cuda.device(device):
        return torch.cuda.is_bf16_supported(including_emulation=False)


def _cpu_multiplies_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
