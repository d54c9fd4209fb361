"""The benchmark for a GPU, tiny and interpreted: a machine that is lent for minutes must not meet its slips."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECTIONS = {"attention", "pooling", "splade", "cross_attention", "quantize", "encoder"}


def test_every_section_runs_and_agrees_with_its_twin(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "kernel_speed.py"), "--out", str(tmp_path), "--toy"]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "DECANT_KERNELS": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "ended early" not in done.stdout and "WRONG" not in done.stdout, done.stdout
    record = json.loads((tmp_path / "kernels.json").read_text("utf-8"))
    assert set(record["correct"]) == SECTIONS <= set(record)
    assert not any(found["problems"] for found in record["correct"].values())
    for section in SECTIONS:
        for contestants in record[section].values():
            assert contestants["decant"]["ms"] > 0
    assert (tmp_path / "kernels.md").exists()
