"""`decant bench`: figures that hang together, of the user's own texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from decant.embedder import Encoder
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


def test_nothing_to_measure_is_said(decant) -> None:
    assert "nothing to measure" in decant("bench", "-", stdin="").error
