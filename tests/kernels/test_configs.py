from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from decant.kernels.configs import launch


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
