"""The export step: the trained decoder as an encoder folder that Decant and sentence-transformers load."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaForCausalLM, PreTrainedTokenizerBase

from ..formats import sentence_transformers
from ..formats.folder import LM_HEAD_FOLDER
from ..spec import Activation, Attention, DenseSpec, EncoderSpec, Pooling
from ..spec_parts import SparseSpec
from ..term_transform import TermTransform
from .recipe import ExportRecipe


def export_encoder(
    model: LlamaForCausalLM,
    axes: Tensor,
    head: Mapping[str, Tensor],
    tokenizer: PreTrainedTokenizerBase,
    dims: list[int],
    recipe: ExportRecipe,
    folder: Path,
) -> None:
    """Writes weights, tokenizer, sentence-transformers files and decant.json; a README.md there is left alone.

    `axes`, (D, D), becomes a dense layer behind the mean; `head`, the parameters of a `TermHead`, the sparse head.
    """
    width = int(model.config.hidden_size)
    spec = EncoderSpec(
        attention=Attention.BIDIRECTIONAL,
        pooling=Pooling.MEAN,
        max_tokens=int(model.config.max_position_embeddings),
        dense=(DenseSpec(width, width, bias=False, activation=Activation.IDENTITY),),
        dimensions=tuple(dim for dim in dims if dim < width),
        sparse=SparseSpec(on_request=True),
    )
    folder.mkdir(parents=True, exist_ok=True)
    model.to(getattr(torch, recipe.dtype)).save_pretrained(folder)
    # A bidirectional model must not be generated from, so it says nothing about how.
    (folder / "generation_config.json").unlink(missing_ok=True)
    # safetensors writes for the owner only, which a package would carry on.
    (folder / "model.safetensors").chmod(0o644)
    tokenizer.save_pretrained(folder)
    # Its indentation would be a two-hundredth of the package.
    Tokenizer.from_file(str(folder / "tokenizer.json")).save(str(folder / "tokenizer.json"), pretty=False)
    (dense,) = sentence_transformers.write(folder, spec, width)
    save_file({"linear.weight": axes.to(getattr(torch, recipe.dtype)).contiguous()}, dense)
    dense.chmod(0o644)
    TermTransform.rounded(head["weight"], head["bias"]).save(folder / LM_HEAD_FOLDER, head["terms"])
    spec.save(folder)
