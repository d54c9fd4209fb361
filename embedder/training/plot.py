"""The loss so far as a picture, drawn anew at every checkpoint."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import numpy as np

log = logging.getLogger(__name__)


def plot_losses(log_file: Path, picture: Path) -> bool:
    """Draws loss over steps, with a running mean, into a PNG that is replaced in one go.

    Returns:
        False where matplotlib is not installed, which is logged; the numbers are in the CSV file in any case.
    """
    try:
        # Not pyplot: it keeps state for the whole process and looks for a screen.
        from matplotlib.figure import Figure
    except ImportError:
        log.warning("no loss plot: matplotlib is missing (pip install 'decant[train]')")
        return False
    with log_file.open(newline="") as file:
        rows = [(int(row["step"]), float(row["loss"])) for row in csv.DictReader(file)]
    steps, losses = np.asarray([step for step, _ in rows]), np.asarray([loss for _, loss in rows])
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot(xlabel="step", ylabel="loss")
    axes.plot(steps, losses, color="0.75", linewidth=0.8)
    width = max(1, len(losses) // 50)
    smooth = np.convolve(losses, np.ones(width) / width, mode="valid")
    axes.plot(steps[width - 1 :], smooth, color="C0")
    axes.grid(alpha=0.3)
    unfinished = picture.with_suffix(".tmp.png")
    figure.savefig(unfinished, dpi=110)
    unfinished.replace(picture)
    return True
