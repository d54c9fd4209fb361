"""What verification measures with: its bounds, its texts, and the encoder's answers in comparable form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .calibration import STILL
from .embeddings import Embeddings

if TYPE_CHECKING:
    from .encoder import Encoder

Vectors = NDArray[np.float32]

# A fully causal MoE model moves by 1e-7 when its last token changes; a bidirectional one by far more than this.
LEAK = 1e-4
# Largest difference between two computations of the same float32 vector, by us, and by us and another implementation.
EXACT = 1e-6
PARITY = 1e-5
# The same for half precision, where 1 - cosine is measured instead: rounding alone moves single dimensions by 1e-2.
EXACT_HALF = 1e-4
PARITY_HALF = 1e-3
# The same for term weights, where a bias takes most of a logit of 10 away that was rounded to 0.04, and for router
# vectors, where a calibration enlarges what was rounded.
SPARSE_HALF = 2e-2

TEXTS: tuple[str, ...] = (
    "Rivers carry water from the mountains to the sea.",
    "Short text.",
    "The committee met on Tuesday, discussed the budget for three hours, and adjourned without taking a decision.",
    "a",
    "def add(a, b):\n    return a + b",
    "Short test.",
)


@dataclass(frozen=True)
class Measurement:
    """One invariant, measured.

    Attributes:
        name: the invariant.
        value: what was measured.
        bound: what it is compared with.
        passed: whether the invariant holds.
        detail: what the value means, in a few words.
    """

    name: str
    value: float
    bound: float
    passed: bool
    detail: str


def random_ids(encoder: Encoder, lengths: tuple[int, ...]) -> list[Tensor]:
    """Return rows of seeded token ids, away from both ends of the vocabulary, where special tokens live."""
    size = encoder.backbone.embedding_rows
    generator = torch.Generator().manual_seed(0)
    low, high = size // 8, max(size - size // 8, size // 8 + 2)
    longest = encoder.max_tokens
    rows = [torch.randint(low, high, (min(n, longest),), generator=generator) for n in lengths]
    return [row.to(encoder.backbone.device) for row in rows]


def other_id(encoder: Encoder, token: int) -> int:
    """Return a token id that is not `token`."""
    size = encoder.backbone.embedding_rows
    return size // 2 if token != size // 2 else size // 2 + 1


def hidden_states(encoder: Encoder, rows: list[Tensor]) -> Tensor:
    """Hidden states of rows packed in this order, (total_tokens, H) float32 on the CPU."""
    layout = encoder.backbone.layout([len(row) for row in rows])
    return encoder.backbone(torch.cat(rows), layout).float().cpu()


def representations(result: Embeddings) -> dict[str, Vectors]:
    """Return what a result holds as (N, D) arrays by the names of `Encoder.outputs`."""
    given = {
        "dense": result.dense,
        "sparse": None if result.sparse is None else result.sparse.toarray(),
        "router": result.router,
    }
    return {name: vectors for name, vectors in given.items() if vectors is not None}


def vectors_of(
    encoder: Encoder, texts: list[str], *, kind: str = "document", batch_tokens: int | None = None
) -> dict[str, Vectors]:
    """Encode texts into everything the encoder offers."""
    return representations(encoder.encode(texts, kind=kind, outputs=encoder.outputs, batch_tokens=batch_tokens))


def moved(got: dict[str, Vectors], want: dict[str, Vectors]) -> float:
    """Return the largest difference of any number in any representation."""
    return max(float(np.abs(got[name] - vectors).max()) for name, vectors in want.items())


def unit(vectors: Vectors) -> Vectors:
    """Return rows of length 1; rows of zeros, such as a text without terms, stay."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def enlarged(encoder: Encoder, output: str) -> float:
    """How many times a calibration enlarges the rounding of what it standardises: 1 over the smallest deviation.

    At most 1e3, so that a float32 vector that is standardised otherwise still stands out.
    """
    calibration = encoder.calibrations.get(output)
    if calibration is None:
        return 1.0
    deviations = calibration.std[calibration.std > STILL]
    return float(min(max(1.0, 1 / deviations.min()), 1e3)) if len(deviations) else 1.0


def same(
    encoder: Encoder,
    name: str,
    got: dict[str, Vectors],
    want: dict[str, Vectors],
    bounds: tuple[float, float],
    detail: str,
) -> Measurement:
    """Judge rows: float32 by the largest difference, relative where values exceed 1; half precision by 1 - cosine."""
    worst = Measurement(name, 0.0, bounds[0], True, detail)
    for output, expected in want.items():
        if encoder.backbone.number_format == "float32":
            bound, scale = bounds[0] * enlarged(encoder, output), max(1.0, float(np.abs(expected).max()))
            value = float(np.abs(got[output] - expected).max()) / scale
        else:
            bound = SPARSE_HALF if output in ("sparse", "router") else bounds[1]
            away = 1 - (unit(got[output]) * unit(expected)).sum(1)
            present = np.abs(expected).max(1) > 0
            value = float(np.maximum(np.where(present, away, np.abs(got[output]).max(1)).max(), 0.0))
        if not value / bound <= worst.value / worst.bound:
            worst = Measurement(name, value, bound, value <= bound, detail)
    return worst
