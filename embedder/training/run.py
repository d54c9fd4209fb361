"""The loop every trained step shares: schedule, checkpoints, a log of the loss."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import DecantError
from .plot import plot_losses

LOG = "loss.csv"
CHECKPOINT = "checkpoint.pt"


class TrainingError(DecantError):
    """A training that cannot go on."""


@dataclass(frozen=True)
class Schedule:
    """Length of a run and how its learning rate goes: linear warm-up, then the chosen way down (or none).

    `cosine` ends at a tenth of the peak, `linear` at zero.
    """

    steps: int
    warmup_steps: int
    checkpoint_steps: int
    shape: Literal["cosine", "linear", "constant"] = "cosine"

    def factor(self, step: int) -> float:
        """What the peak learning rate is multiplied by at a step (from 0)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        match self.shape:
            case "cosine":
                return 0.1 + 0.9 * (1 + math.cos(math.pi * done)) / 2
            case "linear":
                return 1 - done
            case "constant":
                return 1.0


@dataclass(frozen=True)
class StepResult:
    """What one step gives.

    Attributes:
        loss: the loss; one that carries no gradient has been propagated back already.
        tokens: tokens it saw.
        parts: losses of the objectives it consists of, for the log.
    """

    loss: Tensor
    tokens: int
    parts: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Progress:
    """Where a run is: steps done of how many, the last loss, tokens a second."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float


def train(
    module: nn.Module,
    groups: list[dict[str, object]],
    forward: Callable[[int], StepResult],
    schedule: Schedule,
    folder: Path,
    *,
    matrices: list[dict[str, object]] | None = None,
    max_grad_norm: float = 1.0,
    report: Callable[[Progress], None] | None = None,
) -> None:
    """Runs AdamW over the steps, continuing from the last checkpoint in `folder`.

    A run that was killed and continued gives the weights of an undisturbed one: batches depend on the step alone, and
    a checkpoint holds the trained weights, the optimiser and the step.

    Args:
        module: what is trained; left with the final weights. Weights that ask for no gradient stay out of checkpoints.
        groups: AdamW parameter groups, each with its own `lr` (the peak).
        forward: the loss of a step.
        schedule: length, warm-up, checkpoint interval.
        folder: gets checkpoint.pt, loss.csv and loss.png.
        matrices: groups of weight matrices that Muon trains instead (Jordan et al. 2024; torch.optim.Muon).
        max_grad_norm: longer gradients are shortened to it.
        report: called after every step.

    Raises:
        TrainingError: the loss is no longer a number; the last checkpoint stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=0.0)]
    if matrices:
        optimizers.append(torch.optim.Muon(matrices, weight_decay=0.0, adjust_lr_fn="original"))
    peaks = [float(group["lr"]) for optimizer in optimizers for group in optimizer.param_groups]
    step = _restore(module, optimizers, folder)
    all_groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    parameters = [p for group in all_groups for p in group["params"]]
    while step < schedule.steps:
        began = time.perf_counter()
        for group, peak in zip(all_groups, peaks, strict=True):
            group["lr"] = peak * schedule.factor(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        result = forward(step)
        if result.loss.requires_grad:
            result.loss.backward()
        loss = result.loss.item()
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} at step {step + 1}: lower learning_rate, or lengthen warmup_steps")
        nn.utils.clip_grad_norm_(parameters, max_grad_norm)
        for optimizer in optimizers:
            optimizer.step()
        step += 1
        seconds = time.perf_counter() - began
        _log(folder, step, result, seconds)
        if report is not None:
            report(Progress(step, schedule.steps, loss, result.tokens / seconds))
        if step % schedule.checkpoint_steps == 0 or step == schedule.steps:
            _save(module, optimizers, step, folder)
            plot_losses(folder / LOG, folder / "loss.png")


def _trained(module: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def _restore(module: nn.Module, optimizers: list[torch.optim.Optimizer], folder: Path) -> int:
    path = folder / CHECKPOINT
    if not path.exists():
        (folder / LOG).unlink(missing_ok=True)
        return 0
    state = torch.load(path, weights_only=True, map_location="cpu")
    parameters = _trained(module)
    if state["module"].keys() != parameters.keys():
        raise TrainingError(f"{path} is of another model: remove it, or choose another run folder")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["module"][name])
    for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    _trim_log(folder, state["step"])
    return int(state["step"])


def _save(module: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, folder: Path) -> None:
    unfinished = folder / "checkpoint.tmp"
    weights = {name: parameter.detach() for name, parameter in _trained(module).items()}
    states = [optimizer.state_dict() for optimizer in optimizers]
    torch.save({"module": weights, "optimizers": states, "step": step}, unfinished)
    unfinished.replace(folder / CHECKPOINT)


def _log(folder: Path, step: int, result: StepResult, seconds: float) -> None:
    path = folder / LOG
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(["step", "loss", "tokens", "seconds", "parts"])
        parts = " ".join(f"{name}={value:.5f}" for name, value in result.parts.items())
        writer.writerow([step, f"{result.loss.item():.5f}", result.tokens, f"{seconds:.3f}", parts])


def _trim_log(folder: Path, step: int) -> None:
    """Drops lines of steps after the checkpoint, which are about to be done again."""
    path = folder / LOG
    lines = path.read_text().splitlines()[: step + 1] if path.exists() else []
    path.write_text("".join(f"{line}\n" for line in lines))
