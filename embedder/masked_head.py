"""The head of a masked language model (BERT and its kin), taken off it in a way that fits every family.

Families differ in what stands before the last matrix: a layer and a norm, under many names. The model's own forward
knows; here it runs with the backbone replaced by states that are given, and the matrix by the identity. That the
pieces give the model's own logits is measured when they are loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

from .backbone import Backbone
from .errors import ModelError, UnsupportedModelError

_AGREES = 1e-4


@dataclass(frozen=True)
class MaskedHead:
    """A head's two parts: the transform of states, then a (V, E) weight and a (V,) bias or None."""

    transform: nn.Module
    weight: Tensor
    bias: Tensor | None


class HeadTransform(nn.Module):
    """What a masked language model has before its last matrix: (tokens, H) to (tokens, E), the table's width.

    Attributes:
        model: the masked language model without backbone and last matrix.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Take the model, which stays as it is from now on."""
        super().__init__()
        self.model = model

    def forward(self, hidden: Tensor) -> Tensor:
        """Transform states."""
        return self.model(inputs_embeds=hidden[None]).logits[0]


class _Given(nn.Module):
    """Stands for a backbone and returns the states it is given."""

    def forward(self, *_: Any, inputs_embeds: Tensor, **__: Any) -> BaseModelOutput:
        return BaseModelOutput(last_hidden_state=inputs_embeds)  # pyright: ignore[reportArgumentType]


def is_masked(config: PretrainedConfig) -> bool:
    """Whether transformers knows the architecture as a masked language model."""
    return config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES


def load_masked_head(folder: Path, backbone: Backbone) -> MaskedHead:
    """Load the head of the masked language model in `folder`, in the backbone's number format.

    Raises:
        ModelError: if the folder lacks the head's weights.
        UnsupportedModelError: if the head is not a transform and one matrix.
    """
    try:
        model, report = AutoModelForMaskedLM.from_pretrained(
            folder,
            dtype=backbone.dtype,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"cannot load the language-model head in {folder}: {str(error).splitlines()[0]}") from error
    if absent := sorted(report["missing_keys"]):
        raise ModelError(
            f"{folder} has no language-model head ({absent[0]} is missing): load the masked language model, or leave "
            "sparse out"
        )
    return taken_apart(model.to(backbone.device).eval().requires_grad_(False))


def taken_apart(model: PreTrainedModel) -> MaskedHead:
    """Split the head off a masked language model, which is left without its backbone.

    Raises:
        UnsupportedModelError: if the pieces do not give the model's own logits.
    """
    family, last = model.config.model_type, model.get_output_embeddings()
    refusal = f"the language-model head of {family} is not a transform and one matrix: Decant cannot use it"
    if not isinstance(last, nn.Linear):
        raise UnsupportedModelError(refusal)
    setattr(model, model.base_model_prefix, _Given())
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(5, model.config.hidden_size, generator=generator).to(last.weight)
    with torch.inference_mode():
        whole = model(inputs_embeds=probe[None]).logits[0]
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is last:
                setattr(parent, name, nn.Identity())
    transform = HeadTransform(model)
    with torch.inference_mode():
        pieces = nn.functional.linear(transform(probe), last.weight, last.bias)
    if not torch.allclose(whole, pieces, rtol=_AGREES, atol=_AGREES):
        raise UnsupportedModelError(refusal)
    return MaskedHead(transform, last.weight, last.bias)
