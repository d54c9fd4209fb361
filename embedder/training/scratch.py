"""A decoder from scratch: a stock class of transformers with random weights, saved as a model folder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from .experts import make_experts
from .settings import RecipeError
from .training_recipe import DecoderSettings


def make_decoder(
    settings: DecoderSettings, tokenizer_folder: Path, seed: int, folder: Path, dense: Path | None = None
) -> None:
    """Writes config, float32 weights and tokenizer into `folder`; `dense` is the decoder that experts are made of.

    Raises:
        RecipeError: the tokenizer cannot be read, the architecture is no causal language model, or refuses its config.
    """
    try:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(tokenizer_folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise RecipeError(f"decoder.tokenizer: cannot read {tokenizer_folder}: {_line(error)}") from error
    if dense is not None:
        if settings.architecture != "qwen2_moe":
            raise RecipeError(f"decoder.experts_of: makes a qwen2_moe, not a {settings.architecture}")
        _save(make_experts(dense, settings.config, seed), tokenizer, folder)
        return
    special = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    values = {"vocab_size": len(tokenizer), **special, **settings.config}
    try:
        config = AutoConfig.for_model(settings.architecture, **values)
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except Exception as error:
        raise RecipeError(f"decoder: {settings.architecture} cannot be built: {_line(error)}") from error
    known = set(config.to_dict())
    unknown = sorted(key for key in settings.config if key not in type(config)().to_dict() or key not in known)
    if unknown:
        raise RecipeError(f"decoder.config.{unknown[0]} is unknown to {settings.architecture}")
    _save(model, tokenizer, folder)


def _save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
