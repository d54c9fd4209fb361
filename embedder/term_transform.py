"""A transform in front of a tied table: how a finished encoder gets term weights (see `training/term_head.py`).

Its last states were trained for something else than to name tokens, so a linear map turns them into queries of the
token table, and a bias per term says how much it takes before a term counts. A folder keeps both in `lm_head/`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from .errors import ModelError
from .formats.tensors import read_tensors

_PREFIX = "transform."


class TermTransform(nn.Linear):
    """(tokens, H) to (tokens, H); its weights are whole multiples of one step a row, so that saving moves none."""

    @classmethod
    def rounded(cls, weight: Tensor, bias: Tensor) -> Self:
        """Round (H, H) float32 weights to 8 bits a row, and the (H,) bias to half precision."""
        steps = (weight.abs().amax(1) / 127).clamp_(min=1e-12)
        return cls._of((weight / steps[:, None]).round_().to(torch.int8), steps, bias.half())

    @classmethod
    def load(cls, folder: Path) -> Self | None:
        """Read what `save` wrote; None where a folder's head has no such part.

        Raises:
            ModelError: if something of it is missing.
        """
        state = read_tensors(folder, _PREFIX)
        if not state:
            return None
        if missing := {"codes", "steps", "bias"} - state.keys():
            raise ModelError(f"{folder} lacks {_PREFIX}{min(missing)} of its head")
        return cls._of(state["codes"], state["steps"], state["bias"])

    @classmethod
    def _of(cls, codes: Tensor, steps: Tensor, bias: Tensor) -> Self:
        made = cls(codes.shape[1], codes.shape[0])
        with torch.no_grad():
            made.weight.copy_(codes.float() * steps.float()[:, None])
            made.bias.copy_(bias.float())
        made.codes, made.steps, made.half_bias = codes, steps, bias
        return made.eval().requires_grad_(False)

    codes: Tensor
    steps: Tensor
    half_bias: Tensor

    def save(self, folder: Path, terms: Tensor) -> None:
        """Write it beside the (V,) bias of the terms."""
        folder.mkdir(parents=True, exist_ok=True)
        parts = {"codes": self.codes, "steps": self.steps, "bias": self.half_bias}
        state = {_PREFIX + name: part.cpu().contiguous() for name, part in parts.items()}
        file = folder / "model.safetensors"
        save_file({**state, "lm_head.bias": terms.half().cpu().contiguous()}, file)
        # safetensors writes for the owner only, which a package would carry on.
        file.chmod(0o644)
