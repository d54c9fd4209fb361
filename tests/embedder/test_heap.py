"""Memory kept between batches: told once, not against the user, and felt."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from decant.embedder import Encoder, backbone

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="glibc's")

SCRIPT = """
import json, resource, torch
from decant.embedder.heap import keep_freed_memory
told = [keep_freed_memory(), keep_freed_memory()]

def use():
    blocks = [torch.ones(2 << 20) for _ in range(3)]  # 8 MiB each, all of their pages written to
    return sum(float(block[0]) for block in blocks)

for _ in range(8):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    use()
print(json.dumps([told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before]))
"""


def faults(**settings: str) -> tuple[list[bool], int]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=kept | settings, capture_output=True, text=True, check=True
    )
    return tuple(json.loads(run.stdout))


def test_what_was_freed_is_used_again() -> None:
    told, count = faults()
    assert told == [True, True]
    assert count < 5_000, "8 times 24 MiB are 49,152 pages"


@pytest.mark.parametrize(
    "setting",
    [
        {"MALLOC_TRIM_THRESHOLD_": "131072"},
        {"MALLOC_MMAP_THRESHOLD_": "131072"},
        {"GLIBC_TUNABLES": "glibc.malloc.mmap_threshold=131072"},
    ],
)
def test_what_the_user_has_set_stays(setting: dict[str, str]) -> None:
    told, count = faults(**setting)
    assert told == [False, False]
    assert count > 10_000


@pytest.mark.parametrize(("layers", "calls"), [("onednn", 1), ("torch", 0)])
def test_a_model_with_prepared_layers_asks_for_it(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, layers: str, calls: int
) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(backbone, "keep_freed_memory", lambda: asked.append(True))
    monkeypatch.setenv("DECANT_KERNELS", f"layers={layers}")
    Encoder.load(tiny_model, dtype="float32", verify=False)
    assert len(asked) == calls
