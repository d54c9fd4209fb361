"""What every objective is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..data import PairData, TextData
from ..settings import RecipeError
from ..trainee import Trainee


@dataclass(frozen=True)
class Context:
    """The model, the data sets by name, and what makes a step's draws its own.

    Attributes:
        trainee: the model.
        pairs: data sets of pairs.
        texts: data sets of texts.
        dims: Matryoshka widths, the full width first.
        seed: of the run.
        number: of the objective in the recipe.
    """

    trainee: Trainee
    pairs: Mapping[str, PairData]
    texts: Mapping[str, TextData]
    dims: Sequence[int]
    seed: int
    number: int

    @property
    def field(self) -> str:
        """What the objective is called in error messages."""
        return f"objectives[{self.number}]"

    def rng(self, step: int) -> np.random.Generator:
        """Random numbers of this objective at a step."""
        return np.random.default_rng([self.seed, self.number, step])

    def dropout_seed(self, step: int) -> int:
        """Seed of the dropout masks of a step."""
        return int(np.random.SeedSequence([self.seed, self.number, step, 1]).generate_state(1)[0])

    def fix_dropout(self, step: int) -> None:
        """Makes dropout a function of the step, so that a continued run equals an undisturbed one."""
        torch.manual_seed(self.dropout_seed(step))

    def require(self, fits: bool, key: str, message: str) -> None:
        """Raises a `RecipeError` that names a key of the objective, unless `fits`."""
        if not fits:
            raise RecipeError(f"{self.field}.{key}: {message}")
