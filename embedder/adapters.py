"""PEFT adapters, merged into the weights on load; an adapter that does not take effect is an error."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.utils import load_peft_weights, set_peft_model_state_dict
from safetensors import SafetensorError
from torch import Tensor
from transformers import PreTrainedModel

from .errors import ModelError


def merge_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return `model` with the adapter in `folder` merged into its weights.

    An adapter trained on the language model names its weights one level deeper (`model.layers...`) than the backbone
    that is loaded here does; without renaming, PEFT would leave the adapter at zero and say so in a warning only.

    Raises:
        ModelError: if the adapter is unreadable, or names a weight the model does not have.
    """
    try:
        config = PeftConfig.from_pretrained(str(folder))
        state: dict[str, Tensor] = load_peft_weights(str(folder), device="cpu")
    except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
        raise ModelError(f"cannot read the adapter in {folder}: {str(error).splitlines()[0]}") from error
    if config.is_prompt_learning:
        raise ModelError(f"the adapter in {folder} adds tokens to the text and changes no weights: it cannot be merged")
    # Only the backbone is here, so what the adapter was trained for (`task_type`) has no class to match.
    config.task_type = None
    config.base_model_name_or_path = None
    config.inference_mode = True
    try:
        with warnings.catch_warnings():
            # PEFT asks transformers for something by a name that is going away; a user can do nothing about it.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            wrapped: Any = get_peft_model(model, config)
    except ValueError as error:
        raise ModelError(f"the adapter in {folder} does not fit the model: {str(error).splitlines()[0]}") from error
    deeper = f"base_model.model.{model.base_model_prefix}."
    if all(name.startswith(deeper) for name in state) and not hasattr(model, model.base_model_prefix):
        state = {"base_model.model." + name.removeprefix(deeper): value for name, value in state.items()}
    _check_shapes(wrapped, state, folder)
    result = set_peft_model_state_dict(wrapped, state)
    unplaced = list(result.unexpected_keys) + [key for key in result.missing_keys if "lora_" in key]
    if unplaced:
        raise ModelError(
            f"the adapter in {folder} does not fit the model: {len(unplaced)} weights, {unplaced[0]} first"
        )
    with torch.no_grad():
        merged: PreTrainedModel = wrapped.merge_and_unload(safe_merge=True)
    return merged


def _check_shapes(wrapped: Any, state: dict[str, Tensor], folder: Path) -> None:
    expected = {name.replace(".default", ""): value.shape for name, value in wrapped.state_dict().items()}
    for name, value in state.items():
        if name in expected and expected[name] != value.shape:
            raise ModelError(
                f"the adapter in {folder} does not fit the model: {name} is {tuple(value.shape)}, "
                f"the model takes {tuple(expected[name])}"
            )
