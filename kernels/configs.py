"""Block sizes and launch parameters of the kernels, per class of device: stored, never searched while serving.

`benchmarks/kernel_speed.py --autotune` measures them on a GPU and writes `configs.json` anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

FILE = Path(__file__).parent / "configs.json"


@dataclass(frozen=True)
class KernelConfig:
    """How one kernel is launched.

    Attributes:
        blocks: constexpr block sizes by the kernel's names for them.
        num_warps: warps of a program.
        num_stages: depth of the software pipeline.
    """

    blocks: Mapping[str, int]
    num_warps: int
    num_stages: int

    def launch(self) -> dict[str, int]:
        """Keyword arguments of the launch; said outright, fused multiply-add does not change with Triton's default."""
        return {
            **self.blocks,
            "num_warps": self.num_warps,
            "num_stages": self.num_stages,
            "enable_fp_fusion": True,
        }


def lookup(kernel: str, size: int, device: torch.device, dtype: torch.dtype | None = None) -> KernelConfig:
    """Return the stored configuration of a kernel.

    Args:
        kernel: its name in the table.
        size: what the table distinguishes for this kernel, the head dimension for attention; the entry of the
            smallest size not below it is taken, for what fits a larger one fits it, too; if there is none, the largest.
        device: where it runs; a class without such entries of its own has those of `default`.
        dtype: of what is multiplied, where the kernel has blocks of its own for float32, which takes twice the room.
    """
    name = f"{kernel}_float32" if dtype == torch.float32 else kernel
    return _resolve(name, size, device_class(device))


@cache
def _resolve(kernel: str, size: int, family: str) -> KernelConfig:
    tables = table()
    own, default = tables.get(family, {}).get(kernel, {}), tables["default"][kernel]
    for sizes in (own, default):
        if fitting := [key for key in sizes if key >= size]:
            return sizes[min(fitting)]
    largest = own or default
    return largest[max(largest)]


@cache
def table() -> dict[str, dict[str, dict[int, KernelConfig]]]:
    """The stored table: device class, kernel, size."""
    raw = json.loads(FILE.read_text(encoding="utf-8"))
    return {
        family: {
            kernel: {int(size): parse(entry) for size, entry in sizes.items()} for kernel, sizes in kernels.items()
        }
        for family, kernels in raw.items()
    }


def parse(entry: Mapping[str, int]) -> KernelConfig:
    """Read one entry of the table."""
    blocks = {key: value for key, value in entry.items() if key not in ("num_warps", "num_stages")}
    return KernelConfig(MappingProxyType(blocks), entry["num_warps"], entry["num_stages"])


def device_class(device: torch.device) -> str:
    """Name of the device's class in the table: `sm90` for compute capability 9.0, `interpreter` for a CPU."""
    if device.type == "cpu":
        return "interpreter"
    if torch.version.hip:
        return "hip"
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm{major}{minor}"


def launch(kernel: Any, programs: int, heads: int, *arguments: Any, **constants: Any) -> None:
    """Start `programs` x `heads` programs of a Triton kernel; none at all for an empty batch, which GPUs refuse.

    They run on the device of the first tensor among the arguments.
    """
    if not (programs and heads):
        return
    first = next(argument for argument in arguments if isinstance(argument, Tensor))
    # Triton itself goes by the current device, whosever the tensors are.
    with torch.cuda.device_of(first):
        kernel[(programs, heads)](*arguments, **constants)
