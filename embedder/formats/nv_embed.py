"""NV-Embed (arXiv 2405.17428): a Mistral and its latent attention under one `nvembed` configuration.

The published folder asks for its own Python code to be run; the configuration and the weights say enough without.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import MistralConfig, PretrainedConfig

from ..errors import ModelError, UnsupportedModelError
from ..prompts import apply_rule
from ..spec import EncoderSpec, LatentSpec
from .json_file import read_json

MODEL_TYPE = "nvembed"
# State keys of the backbone, as a pattern, and what they become.
RENAMED: Mapping[str, str] = {r"^embedding_model\.": ""}

_EXPECTED = {"padding_side": "right", "is_mask_instruction": True, "add_eos": True, "mask_type": "b"}


def is_nv_embed(config: dict[str, Any]) -> bool:
    """Whether a config.json is NV-Embed's."""
    return config.get("model_type") == MODEL_TYPE


def read(folder: Path) -> tuple[EncoderSpec, PretrainedConfig]:
    """Read the encoder's description and the backbone's configuration.

    Raises:
        ModelError: if the configuration is incomplete or contradicts itself.
        UnsupportedModelError: for an option with another value than the published models have.
    """
    config = read_json(folder / "config.json")
    other = {key: config[key] for key, value in _EXPECTED.items() if key in config and config[key] != value}
    if other:
        raise UnsupportedModelError(f"{folder} has {other}, which Decant does not know of NV-Embed")
    text, block = config.get("text_config"), config.get("latent_attention_config")
    if not isinstance(text, dict) or not isinstance(block, dict):
        raise ModelError(f"{folder / 'config.json'} lacks text_config or latent_attention_config")
    backbone = MistralConfig(**{k: v for k, v in text.items() if k not in ("model_type", "auto_map", "architectures")})
    limit = int(backbone.max_position_embeddings)
    latent = _latent(folder, block, int(backbone.hidden_size))
    spec = apply_rule("nv-embed", EncoderSpec(latent=latent, max_tokens=limit))
    return replace(spec, normalize=bool(block.get("output_normalize", True))), backbone


def _latent(folder: Path, block: dict[str, Any], hidden_size: int) -> LatentSpec:
    try:
        widths = {int(block["hidden_dim"]), int(block["latent_dim"]), hidden_size}
        latent = LatentSpec(
            latents=int(block["num_latents_value"]),
            heads=int(block["num_cross_heads"]),
            head_dim=int(block["cross_dim_head"]),
            hidden_size=hidden_size,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ModelError(f"{folder}: latent_attention_config is not complete ({error})") from None
    if len(widths) > 1:
        raise ModelError(
            f"{folder}: latent_attention_config has widths {sorted(widths)}; hidden_dim and latent_dim must be the "
            f"model's hidden size {hidden_size}"
        )
    return latent
