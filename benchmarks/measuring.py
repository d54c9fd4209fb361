"""What the kernel benchmark's sections share: timing, the chip's limits, the rule a kernel is judged by, the record."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Call = Callable[[], object]


@dataclass
class Bench:
    """One run on one device.

    Attributes:
        device: where.
        toy: tiny sizes, to see on a CPU that nothing is misspelt.
        deadline: `time.monotonic()` after which no new section starts.
        file: where the record is written after every measurement; what it holds already is not measured again.
    """

    device: torch.device
    toy: bool
    deadline: float
    file: Path
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.file.exists():
            self.record = json.loads(self.file.read_text(encoding="utf-8"))
        cuda = self.device.type == "cuda"
        self._flush = torch.empty(64 * 2**20 if cuda else 1, dtype=torch.int32, device=self.device)

    def time_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - time.monotonic()

    def put(self, section: str, case: str, contestant: str, values: dict[str, Any]) -> None:
        """Record one line and write the file."""
        self.record.setdefault(section, {}).setdefault(case, {})[contestant] = values
        self.file.write_text(json.dumps(self.record, indent=1), encoding="utf-8")

    def has(self, section: str, case: str, contestant: str) -> bool:
        """Whether that line was measured in an earlier run."""
        return contestant in self.record.get(section, {}).get(case, {})

    def milliseconds(self, call: Call) -> float:
        """Median time of a call with cold caches, after warming up; about a fifth of a second of calls."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            call()
            return (time.perf_counter() - start) * 1e3
        call()
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        rounds = max(5, min(100, int(0.2 / max(time.perf_counter() - start, 1e-5))))
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(rounds)] for _ in range(2)]
        for begin, end in zip(*events, strict=True):
            self._flush.zero_()
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return statistics.median(begin.elapsed_time(end) for begin, end in zip(*events, strict=True))

    def peak_mib(self, call: Call) -> float:
        """Memory that a call takes beyond what is held before it."""
        if self.device.type != "cuda":
            return 0.0
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        result = call()
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated() - before
        del result
        return peak / 2**20

    def measure(
        self, section: str, case: str, contestant: str, call: Call, *, flops: float = 0.0, bytes_: float = 0.0
    ) -> None:
        """Time a contestant and record time, rates, their share of the chip's limits, and peak memory."""
        if self.has(section, case, contestant):
            return
        try:
            ms = self.milliseconds(call)
            values: dict[str, Any] = {"ms": round(ms, 4), "peak_mib": round(self.peak_mib(call), 1)}
        except Exception as error:
            self.put(section, case, contestant, {"failed": f"{type(error).__name__}: {str(error).splitlines()[:1]}"})
            return
        limits = self.record.get("limits", {}).get("measured", {})
        for name, amount, unit, limit in (("flops", flops, 1e12, "TFLOP/s"), ("bytes", bytes_, 1e9, "GB/s")):
            if amount:
                rate = amount / ms * 1e3 / unit
                values[limit] = round(rate, 2)
                if limits.get(limit):
                    values[f"share of {name} limit"] = round(rate / limits[limit], 3)
        self.put(section, case, contestant, values)
        print(f"{section:16} {case:28} {contestant:22} " + "  ".join(f"{k} {v}" for k, v in values.items()), flush=True)


def measure_limits(bench: Bench) -> None:
    """The chip's matrix product and memory rates, measured here; shares are of these."""
    if "limits" in bench.record:
        return
    size = 128 if bench.toy else 8192
    a, b = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    x = torch.randn(2**10 if bench.toy else 2**28, device=bench.device)
    y = torch.empty_like(x)
    gemm, copy = bench.milliseconds(lambda: a @ b), bench.milliseconds(lambda: y.copy_(x))
    limits = {"TFLOP/s": 2 * size**3 / gemm / 1e9, "GB/s": 2 * x.numel() * 4 / copy / 1e6}
    bench.put("limits", "measured", "TFLOP/s", limits["TFLOP/s"])  # type: ignore[arg-type]
    bench.put("limits", "measured", "GB/s", limits["GB/s"])  # type: ignore[arg-type]
    print(f"limits: {limits}", flush=True)


def disagreement(mine: Tensor, twin: Tensor, exact: Tensor, atol: float = 1e-3) -> str | None:
    """Judge by the twin's own error: at most twice that of the twin in the same number format, plus `atol`."""
    seen = exact.isfinite()
    if not torch.equal(mine.float().isfinite(), seen):
        return "finite in other places than the reference"
    error, allowed = (
        (x.float() - exact.float())[seen].abs().amax().item() if seen.any() else 0.0 for x in (mine, twin)
    )
    scale = exact.float()[seen].abs().amax().item() if seen.any() else 1.0
    bound = 2 * allowed + atol * max(scale, 1.0)
    return None if error <= bound else f"error {error:.3g}, the twin's {allowed:.3g}, allowed {bound:.3g}"
