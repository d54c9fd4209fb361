"""The export step: the trained decoder as an encoder folder that Decant and sentence-transformers load."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from ..formats import sentence_transformers
from ..spec import Attention, EncoderSpec, Pooling
from .recipe import ExportRecipe


def export_encoder(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerBase,
    dims: list[int],
    recipe: ExportRecipe,
    folder: Path,
) -> None:
    """Writes weights, tokenizer, sentence-transformers files and decant.json; a README.md there is left alone."""
    width = int(model.config.hidden_size)
    spec = EncoderSpec(
        attention=Attention.BIDIRECTIONAL,
        pooling=Pooling.MEAN,
        max_tokens=int(model.config.max_position_embeddings),
        dimensions=tuple(dim for dim in dims if dim < width),
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, recipe.dtype)).save_pretrained(folder)
    # A bidirectional model must not be generated from, so it says nothing about how.
    (folder / "generation_config.json").unlink(missing_ok=True)
    # safetensors writes for the owner only, which a package would carry on.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    sentence_transformers.write(folder, spec, width)
    spec.save(folder)
