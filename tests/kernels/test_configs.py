from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from decant.kernels import configs
from decant.kernels.configs import KernelConfig, launch, lookup


class Kernel:
    """Takes down each launch, and whose device was the current one."""

    def __init__(self) -> None:
        self.launches: list[Any] = []
        self.current: Tensor | None = None

    def __getitem__(self, grid: tuple[int, int]) -> Callable[..., None]:
        return lambda *arguments, **constants: self.launches.append((grid, self.current, arguments, constants))


def test_programs_run_where_the_first_tensor_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel()

    @contextmanager
    def device_of(tensor: Tensor) -> Generator[None]:
        kernel.current = tensor
        yield
        kernel.current = None

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    first, second = torch.ones(1), torch.ones(2)
    launch(kernel, 3, 2, None, first, 5, second, BLOCK=16)
    assert kernel.launches == [((3, 2), first, (None, first, 5, second), {"BLOCK": 16})]


@pytest.mark.parametrize("grid", [(0, 4), (4, 0)])
def test_no_program_is_no_launch(grid: tuple[int, int]) -> None:
    kernel = Kernel()
    launch(kernel, *grid, torch.ones(0))
    assert not kernel.launches


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """A table of one class that was measured for one size."""

    def entries(*sizes: int, block: int) -> dict[int, KernelConfig]:
        return {size: KernelConfig({"BM": block + size}, 4, 2) for size in sizes}

    table = {
        "default": {"fwd": entries(64, 256, block=0), "fwd_float32": entries(256, block=1000)},
        "sm90": {"fwd": entries(128, block=5000)},
    }
    monkeypatch.setattr(configs, "table", lambda: table)
    monkeypatch.setattr(configs, "device_class", lambda device: f"sm{device.index}")
    configs._resolve.cache_clear()
    yield
    configs._resolve.cache_clear()


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize(
    ("capability", "size", "dtype", "block"),
    [
        (90, 64, torch.bfloat16, 5128),
        (90, 256, torch.bfloat16, 256),  # blocks for 128 may be too large for it
        (90, 300, torch.bfloat16, 5128),
        (90, 64, torch.float32, 1256),
        (80, 65, torch.float16, 256),
        (80, 64, None, 64),
    ],
)
def test_blocks_fit_the_size_and_the_number_format(
    capability: int, size: int, dtype: torch.dtype | None, block: int
) -> None:
    assert lookup("fwd", size, torch.device("cuda", capability), dtype).blocks == {"BM": block}
