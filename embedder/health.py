"""How much room an encoder's states use, layer by layer: states that all point one way tell texts apart badly.

Three numbers of each layer's pooled tokens, and of the vectors in the end:

- mean cosine: of two different rows (Ethayarajh 2019, arXiv 1909.00512); near 1, everything points one way;
- anisotropy: share of the centred rows' variance along its first axis, s_1^2 / sum s_i^2 (Razzhigaev et al. 2023,
  arXiv 2311.05928);
- effective rank: exp of the entropy of s_i / sum s_i (Roy and Vetterli 2007), from 1 to the width.

The s_i are singular values of the centred rows. Sums of products are kept in float64, never the rows themselves, so
any amount of text fits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .encoder import Encoder
from .errors import InputError
from .layers import layer_states


@dataclass(frozen=True)
class Spread:
    """How a set of rows is spread.

    Attributes:
        rows: how many.
        width: of a row.
        mean_cosine: of two different rows.
        anisotropy: share of the variance along the first axis, from 1 / width to 1.
        effective_rank: from 1 to the width.
    """

    rows: int
    width: int
    mean_cosine: float
    anisotropy: float
    effective_rank: float


@dataclass(frozen=True)
class Health:
    """An encoder's spreads on some texts.

    Attributes:
        layers: of the pooled tokens behind the embeddings and behind each layer.
        vectors: of the dense vectors of the texts; None where the model makes none.
    """

    layers: list[Spread]
    vectors: Spread | None


class Moments:
    """Sums over rows from which a `Spread` follows."""

    def __init__(self, width: int) -> None:
        """Start with no rows."""
        self._rows = 0
        self._sum = torch.zeros(width, dtype=torch.float64)
        self._unit_sum = torch.zeros(width, dtype=torch.float64)
        self._products = torch.zeros(width, width, dtype=torch.float64)

    def add(self, rows: Tensor) -> None:
        """Take in (n, width) rows."""
        wide = rows.to("cpu", torch.float64)
        self._rows += len(wide)
        self._sum += wide.sum(0)
        self._unit_sum += torch.nn.functional.normalize(wide, dim=1).sum(0)
        self._products += wide.T @ wide

    def spread(self) -> Spread:
        """Return the spread of all rows.

        Raises:
            InputError: fewer than two rows, or rows with NaN or infinity.
        """
        n = self._rows
        if n < 2:
            raise InputError("one row has no spread: give more text")
        if not bool(self._products.isfinite().all()):
            raise InputError("the states hold NaN or infinity: try dtype=float32")
        cosine = (float(self._unit_sum.square().sum()) - n) / (n * (n - 1))
        mean = self._sum / n
        squares = torch.linalg.eigvalsh(self._products - n * torch.outer(mean, mean)).clamp_min(0.0)
        # What is left of axes without any variance is rounding, which must not count as directions in use.
        squares = squares.where(squares > 1e-12 * float(self._products.trace()), 0.0)
        if not float(squares.sum()):
            return Spread(n, len(mean), cosine, 1.0, 1.0)
        shares = squares.sqrt() / squares.sqrt().sum()
        entropy = -float(torch.special.xlogy(shares, shares).sum())
        return Spread(n, len(mean), cosine, float(squares.max() / squares.sum()), float(np.exp(entropy)))


def measure_health(
    encoder: Encoder, texts: Sequence[str], *, kind: str = "document", batch_tokens: int | None = None
) -> Health:
    """Measure the spread behind every layer.

    A set of rows has at most as many directions as rows: give several times the width, in tokens and in texts.

    Args:
        encoder: any encoder.
        texts: what it reads.
        kind: which prompt stands before them.
        batch_tokens: token budget of one forward.

    Raises:
        InputError: there is too little text, or states are not numbers.
    """
    layers: list[Moments] = []
    for batch in layer_states(encoder, texts, kind=kind, batch_tokens=batch_tokens):
        layers = layers or [Moments(states.shape[1]) for states in batch.states]
        for moments, states in zip(layers, batch.states, strict=True):
            moments.add(batch.kept(states))
    vectors = None
    if "dense" in encoder.outputs and len(texts) > 1:
        dense = encoder.encode(list(texts), kind=kind, outputs=("dense",), batch_tokens=batch_tokens).dense
        assert dense is not None
        moments = Moments(dense.shape[1])
        moments.add(torch.from_numpy(dense))
        vectors = moments.spread()
    return Health([moments.spread() for moments in layers], vectors)


def plot_health(health: Health, file: Path) -> None:
    """Draw anisotropy, mean cosine and effective rank over the layers into a picture.

    Raises:
        InputError: matplotlib is not installed, or the picture cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("a plot needs matplotlib: pip install 'decant[train]'") from error
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    shares, ranks = figure.subplots(1, 2)
    places = range(len(health.layers))
    shares.plot(places, [one.anisotropy for one in health.layers], "o-", label="anisotropy")
    shares.plot(places, [one.mean_cosine for one in health.layers], "s--", label="mean cosine")
    shares.set(xlabel="layer (0: embeddings)", ylim=(min(0.0, *(one.mean_cosine for one in health.layers)), 1))
    ranks.plot(places, [one.effective_rank for one in health.layers], "o-", color="C2", label="tokens")
    ranks.set(xlabel="layer (0: embeddings)", ylabel="effective rank", ylim=(0, health.layers[0].width))
    if health.vectors:
        ranks.axhline(health.vectors.effective_rank, color="C3", linestyle=":", label="vectors of texts")
    for axes in (shares, ranks):
        axes.grid(alpha=0.3)
        axes.legend()
    try:
        figure.savefig(file, dpi=110)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot draw to {file}: {error}") from error
