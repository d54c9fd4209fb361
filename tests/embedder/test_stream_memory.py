"""A long stream takes no more memory than a quarter of it."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from decant.embedder import Encoder, windows


def _texts(count: int) -> Iterator[str]:
    """Never in memory together, of lengths that keep changing."""
    return (f"text number {i} " * (1 + i % 7) for i in range(count))


def _peak_kib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("parts", [12, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(1800)])])
def test_peak_memory_stays(tiny_model: Path, monkeypatch: pytest.MonkeyPatch, parts: int) -> None:
    window = 500
    monkeypatch.setattr(windows, "WINDOW_TEXTS", window)
    stream = Encoder.load(tiny_model, dtype="float32", verify=False).encode_stream(_texts(parts * window))
    count = peak = 0
    for number, part in enumerate(stream, start=1):
        count += len(part)
        if number == parts // 4:
            peak = _peak_kib()
    assert count == parts * window
    # The vectors of the rest of the longer stream would take 92 MiB, its texts more. Threads that tokenise beside the
    # computing one have heaps of their own, which fill in steps over the first 150,000 texts and then no more.
    assert _peak_kib() - peak < 64 * 1024
