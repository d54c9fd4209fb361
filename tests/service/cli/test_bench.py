"""`decant bench`: figures that hang together, of the user's own texts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from decant.embedder import Encoder, threads
from decant.embedder.measure import ceiling, measure


def test_counts_and_shares_hang_together(decant) -> None:
    Path("in.txt").write_text("one text\nand another, longer one\nthird\n", "utf-8")
    done = decant("bench", "in.txt", "--rounds", "2", "--json")
    assert done.code == 0
    found = done.json
    assert found["texts"] == 3
    assert found["tokens_per_second"] == pytest.approx(found["tokens"] / found["seconds"], rel=0.01)
    share = found["gflops_per_second"] / found["ceiling_gflops_per_second"]
    assert found["share_of_ceiling"] == pytest.approx(share, rel=0.05, abs=0.01)
    # The stages are timed in a round of their own, on whatever else the machine does.
    assert 0.1 < sum(found["stages"].values()) / found["seconds"] < 10
    assert set(found["stages"]) == {"tokenize", "pack", "backbone", "head"}


def test_people_read_lines(decant) -> None:
    done = decant("bench", "--texts", "4", "--rounds", "1")
    assert done.code == 0
    assert "share of ceiling" in done.out and "tokens/s" in done.out and "time: backbone" in done.out


def test_operations_are_those_of_the_model(tiny_model: Path) -> None:
    encoder = Encoder.load(tiny_model, dtype="float32", verify=False)
    found = measure(encoder, ["some text to count", "and one more"], rounds=1)
    linear = sum(p.numel() for name, p in encoder.backbone.model.named_parameters() if "proj" in name)
    assert 2 * linear * found.tokens <= found.flops <= 2.5 * linear * found.tokens
    assert ceiling(encoder, 32, rounds=1) > 0


def test_numbers_of_threads_are_compared(decant) -> None:
    before = torch.get_num_threads()
    found = decant("bench", "--texts", "4", "--rounds", "1", "--threads", "1,2", "--json").json
    assert set(found["tokens_per_second"]) == {"1", "2"}
    assert found["tokens_per_second"][str(found["fastest"])] == max(found["tokens_per_second"].values())
    assert torch.get_num_threads() == before
    assert "fastest: OMP_NUM_THREADS=" in decant("bench", "--texts", "4", "--rounds", "1", "--threads", "1,2").out
    for wrong in ("0", "two", "1,,2", ""):
        done = decant("bench", "--texts", "4", "--threads", wrong)
        assert done.code == 2
        assert "1,2,4" in done.error


def test_no_more_threads_than_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        monkeypatch.setattr(threads, "cpu_count", lambda: 5)
        assert threads.limit_threads() == torch.get_num_threads() == 5
        assert threads.limit_threads(2) == 2
        assert threads.limit_threads() == 2  # never raised
        assert threads.limit_threads(9) == 1
    finally:
        torch.set_num_threads(before)


def test_nothing_to_measure_is_said(decant) -> None:
    assert "nothing to measure" in decant("bench", "-", stdin="").error
