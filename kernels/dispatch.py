"""Which implementation of an operation runs: decided in this one place, and said in the log once.

Every operation exists in plain PyTorch; where a GPU and Triton are present most have a kernel as well, a decoder's
layers have a form prepared for oneDNN, and its forwards of small batches can be recorded as CUDA graphs. Nothing here
imports Triton: the kernels are imported when one is about to run.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from types import MappingProxyType
from typing import Literal, get_args

import torch

Implementation = Literal["torch", "triton", "onednn", "graph"]

# What there is of each operation besides plain PyTorch.
OPERATIONS: Mapping[str, Implementation] = MappingProxyType(
    {
        "attention": "triton",
        "cross_attention": "triton",
        "pooling": "triton",
        "splade": "triton",
        "quantize": "triton",
        "layers": "onednn",
        "forward": "graph",
    }
)
# What runs only where it is asked for by name, and why.
ON_REQUEST: Mapping[str, str] = MappingProxyType({"forward": "graphs were not measured on a GPU yet"})
OVERRIDE = "DECANT_KERNELS"

log = logging.getLogger(__name__)


class KernelError(RuntimeError):
    """An implementation was asked for by name and cannot run; one line that says why and what to do."""


def choose(
    operation: str,
    device: torch.device,
    refusal: str | None = None,
    implementation: Implementation | None = None,
) -> Implementation:
    """Return the implementation to run on this call.

    What was asked for by argument, or else in the environment variable DECANT_KERNELS (`torch`, `triton`, `onednn`, or
    a list as in `attention=torch,splade=triton`), runs or raises. Otherwise kernels run on a GPU where they can, and
    prepared layers wherever the caller has nothing against them.

    Args:
        operation: one of `OPERATIONS`.
        device: where the tensors are.
        refusal: why the kernel cannot do what this call wants; None where it can.
        implementation: overrides the environment.

    Raises:
        KernelError: if the implementation asked for is unknown or cannot run here.
    """
    wanted = implementation or asked_for(operation)
    fast = OPERATIONS[operation]
    obstacle = refusal or _obstacle(fast, device.type)
    if wanted not in (None, "torch"):
        if obstacle or wanted != fast:
            reason = obstacle or "there is none"
            raise KernelError(f"the {wanted} implementation of {operation} cannot run: {reason}; choose torch")
        _report(operation, fast, "asked for")
        return fast
    if wanted == "torch":
        _report(operation, "torch", "asked for")
        return "torch"
    if obstacle is None and fast == "triton" and device.type == "cpu":
        # Interpreted kernels exist to be tested; nobody computes with them unless they say so.
        obstacle = "the interpreter is for tests"
    if operation in ON_REQUEST:
        obstacle = obstacle or ON_REQUEST[operation]
    _report(operation, "torch" if obstacle else fast, obstacle or f"on {device.type}")
    return "torch" if obstacle else fast


def asked_for(operation: str) -> Implementation | None:
    """What the environment asks for by name; None where it leaves the choice open."""
    return requested(os.environ.get(OVERRIDE, "")).get(operation)


@cache
def requested(setting: str) -> dict[str, Implementation]:
    """Read DECANT_KERNELS: one name for all operations that have it, or operation=name pairs.

    Raises:
        KernelError: for a name that is none of an operation or implementation.
    """
    chosen: dict[str, Implementation] = {}
    for part in filter(None, (part.strip() for part in setting.split(","))):
        operation, _, name = part.rpartition("=")
        having = [key for key, fast in OPERATIONS.items() if name in ("torch", fast)]
        if not having or (operation and operation not in having):
            names, operations = " or ".join(get_args(Implementation)), ", ".join(OPERATIONS)
            raise KernelError(f"{OVERRIDE}={setting!r}: write {names}, or pairs of one of {operations} and a name")
        for key in (operation,) if operation else having:
            chosen[key] = "torch" if name == "torch" else OPERATIONS[key]
    return chosen


def _obstacle(implementation: Implementation, device_type: str) -> str | None:
    if implementation == "onednn":
        return None
    if implementation == "graph":
        return None if device_type == "cuda" else f"the tensors are on {device_type}"
    if not _triton_installed():
        return "Triton is not installed"
    if device_type == "cuda":
        return None
    if device_type == "cpu" and os.environ.get("TRITON_INTERPRET") == "1":
        return None
    return f"the tensors are on {device_type}"


@cache
def _triton_installed() -> bool:
    return find_spec("triton") is not None


@cache
def _report(operation: str, implementation: str, reason: str) -> None:
    log.info("%s: %s (%s)", operation, implementation, reason)
