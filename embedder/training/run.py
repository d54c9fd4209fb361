"""The loop every trained step shares: schedule, checkpoints, a log of the loss."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Schedule:
    """Length of a run and how its learning rate goes: linear warm-up, then a cosine to a tenth of the peak."""

    steps: int
    warmup_steps: int
    checkpoint_steps: int

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by at a step (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class StepResult:
    """What one step's forward gives: the loss to minimise and the tokens it saw."""

    loss: Tensor
    tokens: int


def train(
    module: nn.Module,
    groups: list[dict[str, object]],
    forward: Callable[[int], StepResult],
    schedule: Schedule,
    folder: Path,
) -> None:
    """Runs AdamW over the steps, continuing from the last checkpoint in `folder`.

    A run that was killed and continued gives the weights of an undisturbed one: batches depend on the step alone, and
    a checkpoint holds the module, the optimiser and the step.

    Args:
        module: what is trained; left with the final weights.
        groups: AdamW parameter groups, each with its own `lr` (the peak).
        forward: the loss of a step.
        schedule: length, warm-up, checkpoint interval.
        folder: gets checkpoint.pt and loss.csv.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)
    peaks = [float(group["lr"]) for group in optimizer.param_groups]
    step = _restore(module, optimizer, folder)
    while step < schedule.steps:
        began = time.perf_counter()
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step)
        result = forward(step)
        optimizer.zero_grad(set_to_none=True)
        result.loss.backward()
        nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        step += 1
        _log(folder, step, result, time.perf_counter() - began)
        if step % schedule.checkpoint_steps == 0 or step == schedule.steps:
            _save(module, optimizer, step, folder)


def _restore(module: nn.Module, optimizer: torch.optim.Optimizer, folder: Path) -> int:
    path = folder / "checkpoint.pt"
    if not path.exists():
        (folder / "loss.csv").unlink(missing_ok=True)
        return 0
    state = torch.load(path, weights_only=True)
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    _trim_log(folder, state["step"])
    return int(state["step"])


def _save(module: nn.Module, optimizer: torch.optim.Optimizer, step: int, folder: Path) -> None:
    unfinished = folder / "checkpoint.tmp"
    state = {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
    torch.save(state, unfinished)
    unfinished.replace(folder / "checkpoint.pt")


def _log(folder: Path, step: int, result: StepResult, seconds: float) -> None:
    with (folder / "loss.csv").open("a", newline="") as file:
        csv.writer(file).writerow([step, f"{result.loss.item():.5f}", result.tokens, f"{seconds:.3f}"])


def _trim_log(folder: Path, step: int) -> None:
    """Drops lines of steps after the checkpoint, which are about to be done again."""
    path = folder / "loss.csv"
    lines = path.read_text().splitlines()[:step] if path.exists() else []
    path.write_text("".join(f"{line}\n" for line in lines))
