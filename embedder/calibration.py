"""Per-dimension mean and deviation of vectors, measured once and stored with the model.

MoEE's published code standardises over whatever shares a batch, so that a vector depends on its neighbours and a text
alone becomes zero; stored statistics do neither.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .errors import InputError, ModelError
from .spec import EncoderSpec

if TYPE_CHECKING:
    from .encoder import Encoder

# A dimension that moves less than this between texts says nothing; divided by it, rounding would be all there is.
STILL = 1e-6
_FILE = "model.safetensors"


@dataclass(frozen=True)
class Calibration:
    """Statistics of D dimensions.

    Attributes:
        mean: (D,) float32.
        std: (D,) float32, the unbiased standard deviation.
    """

    mean: Tensor
    std: Tensor

    def apply(self, vectors: Tensor) -> Tensor:
        """Standardise (N, D) rows; a dimension that did not vary becomes 0."""
        mean, std = self.mean.to(vectors.device), self.std.to(vectors.device)
        return torch.where(std > STILL, (vectors - mean) / std.clamp_min(STILL), 0.0)


def calibrate(encoder: Encoder, texts: Iterable[str], kind: str) -> tuple[EncoderSpec, dict[str, Calibration]]:
    """Measure an encoder's router vectors, and dense ones beside them, as its routers and pooling give them.

    Returns:
        The spec that standardises by the statistics, and the statistics by the names of `Encoder.outputs`.

    Raises:
        InputError: for an encoder without router vectors, or fewer than two texts.
    """
    spec = encoder.spec
    if spec.router is None:
        raise InputError("only router vectors are calibrated: add a router to the spec")
    router = replace(spec.router, calibrated=False, normalize=False)
    raw = encoder.with_spec(replace(spec, standardize=False, normalize=False, router=router), {})
    parts = list(raw.encode_stream(texts, kind=kind, outputs=raw.outputs))
    measured = {"router": measure(part.router for part in parts if part.router is not None)}
    if "dense" in raw.outputs:
        measured["dense"] = measure(part.dense for part in parts if part.dense is not None)
    router = replace(spec.router, calibrated=True)
    return replace(spec, standardize="dense" in measured, router=router), measured


def measure(parts: Iterable[NDArray[np.float32]]) -> Calibration:
    """Measure the statistics of the rows of all parts, in constant memory.

    Raises:
        InputError: for fewer than two rows, which have no deviation.
    """
    count, mean, squares = 0, np.zeros(1), np.zeros(1)
    for part in parts:
        rows = part.astype(np.float64)
        if not len(rows):
            continue
        both = count + len(rows)
        own = rows.mean(0)
        squares = squares + ((rows - own) ** 2).sum(0) + (own - mean) ** 2 * count * len(rows) / both
        mean = mean + (own - mean) * len(rows) / both
        count = both
    if count < 2:
        raise InputError(f"a calibration needs at least 2 texts, not {count}: give some hundred of the kind you encode")
    std = np.sqrt(squares / (count - 1))
    return Calibration(torch.from_numpy(mean).float(), torch.from_numpy(std).float())


def save(calibrations: dict[str, Calibration], folder: Path) -> None:
    """Write the calibrations of the representations they are named after; no folder for none."""
    if not calibrations:
        return
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_tensors(calibrations), folder / _FILE)


def load(folder: Path) -> dict[str, Calibration]:
    """Read what `save` wrote.

    Raises:
        ModelError: if the file is missing, broken, or lacks a tensor.
    """
    try:
        state = load_file(folder / _FILE)
        names = sorted({name.split(".")[0] for name in state})
        return {name: Calibration(state[f"{name}.mean"], state[f"{name}.std"]) for name in names}
    except (OSError, KeyError, SafetensorError) as error:
        raise ModelError(f"{folder} holds no calibration: {str(error).splitlines()[0]}") from None


def digest(calibrations: dict[str, Calibration]) -> bytes:
    """Hash the statistics, for the fingerprint; the same before they are saved and after."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, tensor in sorted(_tensors(calibrations).items()):
        hashed.update(name.encode() + tensor.numpy().tobytes())
    return hashed.digest()


def _tensors(calibrations: dict[str, Calibration]) -> dict[str, Tensor]:
    pairs = [(name, part, getattr(c, part)) for name, c in calibrations.items() for part in ("mean", "std")]
    return {f"{name}.{part}": tensor.detach().cpu().contiguous() for name, part, tensor in pairs}
