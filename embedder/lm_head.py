"""The language-model head: what turns a hidden state into a logit per term of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PretrainedConfig

from ..kernels.rows import computed_alike
from .backbone import Backbone
from .errors import ModelError, UnsupportedModelError
from .formats.tensors import read_tensors
from .term_transform import TermTransform

_NAMES = ("lm_head.", "embed_out.")


@dataclass(frozen=True)
class LmHead:
    """logits = softcap(scale * (transform(hidden) @ weight.T + bias)).

    Attributes:
        weight: (V, H), or as wide as the transform makes states.
        bias: (V,), or None.
        scale: factor on the logits, positive (Cohere, Granite).
        softcap: logits become `softcap * tanh(logits / softcap)` (Gemma 2); None for no cap.
        tied: whether the weight is the table of input embeddings.
        transform: what is done to states first, by a masked language model (BERT) or a head put on later
            (`TermTransform`); None for a decoder.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None
    tied: bool
    transform: nn.Module | None = None

    @classmethod
    def load(cls, folder: Path, backbone: Backbone) -> LmHead:
        """Load the head from a model folder, in the backbone's number format.

        Raises:
            ModelError: if the folder has no such head, or it does not fit.
            UnsupportedModelError: for an architecture whose head is neither a decoder's nor a masked model's.
        """
        from .formats.sentence_transformers import is_decoder
        from .masked_head import is_masked, load_masked_head

        config = backbone.config
        if is_masked(config) and not is_decoder(config):
            parts = load_masked_head(folder, backbone)
            return cls(parts.weight, parts.bias, 1.0, None, tied=False, transform=parts.transform)
        if not is_decoder(config) or hasattr(config, "lm_head_multiplier"):
            raise UnsupportedModelError(f"{config.model_type} has no plain language-model head to make terms with")
        scale, softcap = _scale(config), getattr(config, "final_logit_softcapping", None)
        table = backbone.model.get_input_embeddings().weight
        if getattr(config, "tie_word_embeddings", False) and isinstance(table, Tensor):
            return _tied(_fitting(table, backbone, folder), scale, softcap, folder)
        for name in _NAMES:
            state = read_tensors(folder, name)
            if "weight" in state:
                state = {key: value.to(backbone.device, backbone.dtype) for key, value in state.items()}
                weight = _fitting(state["weight"], backbone, folder)
                return cls(weight, state.get("bias"), scale, softcap, tied=False)
        raise ModelError(f"{folder} has no language-model head: load the decoder it came from, or leave sparse out")

    def save(self, folder: Path) -> None:
        """Write what the backbone's weights do not hold: of a tied head, its transform and bias where it has them."""
        if isinstance(self.transform, TermTransform) and self.bias is not None:
            self.transform.save(folder, self.bias)
        if self.tied:
            return
        folder.mkdir(parents=True, exist_ok=True)
        state = {"lm_head.weight": self.weight, **({"lm_head.bias": self.bias} if self.bias is not None else {})}
        plain = {name: value.detach().contiguous().cpu() for name, value in state.items()}
        save_file(plain, folder / "model.safetensors")

    def states(self, hidden: Tensor) -> Tensor:
        """Return what the weight is multiplied with, (tokens, width of the weight), of (tokens, H) hidden states."""
        hidden = hidden.to(self.weight.dtype)
        return hidden if self.transform is None else computed_alike(self.transform, hidden)

    def adjust(self, logits: Tensor) -> Tensor:
        """Apply scale and cap to (batch, V) raw logits; both keep their order, so a maximum may come first."""
        logits = logits * self.scale
        return self.softcap * torch.tanh(logits / self.softcap) if self.softcap else logits


def _tied(table: Tensor, scale: float, softcap: float | None, folder: Path) -> LmHead:
    """The head over the token table, with what `folder` may put in front of it."""
    transform = TermTransform.load(folder)
    if transform is None:
        return LmHead(table, None, scale, softcap, tied=True)
    bias = read_tensors(folder, "lm_head.").get("bias")
    if transform.weight.shape != (table.shape[1],) * 2 or bias is None or len(bias) != len(table):
        raise ModelError(
            f"the head in {folder} does not fit a table of {len(table)} tokens by {table.shape[1]} features"
        )
    return LmHead(table, bias.to(table), scale, softcap, tied=True, transform=transform.to(table.device, table.dtype))


def _scale(config: PretrainedConfig) -> float:
    """Cohere multiplies its logits, Granite divides them."""
    return float(getattr(config, "logit_scale", None) or 1.0) / float(getattr(config, "logits_scaling", None) or 1.0)


def _fitting(weight: Tensor, backbone: Backbone, folder: Path) -> Tensor:
    if weight.shape[1] != backbone.hidden_size:
        raise ModelError(
            f"the language-model head of {folder} takes {weight.shape[1]} features, the model gives "
            f"{backbone.hidden_size}"
        )
    return weight
