"""What a model's configuration says of its decoder, and how attention is written into it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig
from transformers import __version__ as version

from .errors import ModelError, UnsupportedModelError
from .families import BIDIRECTIONAL_COPIES, POSITIONS_FROM_PADDING
from .formats.json_file import read_json
from .spec import Attention

# What ties a configuration to Python code of its own.
_OWN_CODE = ("model_type", "auto_map", "architectures")


def load_config(folder: Path) -> PretrainedConfig:
    """Read a model folder's config.json.

    Raises:
        ModelError: if there is none, or transformers does not know the architecture.
    """
    file = folder / "config.json"
    raw = read_json(file) if file.is_file() else {}
    if (stock := BIDIRECTIONAL_COPIES.get(str(raw.get("model_type")))) is not None:
        config = AutoConfig.for_model(stock, **{key: value for key, value in raw.items() if key not in _OWN_CODE})
        config.is_causal = False
        return config
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        if (family := raw.get("model_type")) and family not in CONFIG_MAPPING:
            raise UnsupportedModelError(
                f"{file}: model_type {family!r} is no architecture that transformers {version} knows"
            ) from error
        raise ModelError(f"no usable model configuration in {folder}: {str(error).splitlines()[0]}") from error


def model_type(config: PretrainedConfig) -> str:
    """Name of the text decoder's architecture, as transformers registers it."""
    return str(config.get_text_config().model_type)


def first_position(config: PretrainedConfig) -> int:
    """Position of a text's first token, for families that count from behind the padding token's id."""
    if model_type(config) not in POSITIONS_FROM_PADDING:
        return 0
    padding = config.pad_token_id
    return (padding if isinstance(padding, int) else 1) + 1


def elementwise_widths(config: PretrainedConfig) -> tuple[int, ...]:
    """Columns of what functions are applied to element by element, in any layer: the MLP's inner one, rotary angles."""
    layers = config.per_layer_config if config.is_heterogeneous else [config]
    return tuple(sorted({width for layer in layers for width in _layer_widths(layer)}))


def _layer_widths(config: PretrainedConfig) -> Iterator[int]:
    hidden, heads = int(config.hidden_size), getattr(config, "num_attention_heads", None)
    inner = getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None)
    inner = inner if isinstance(inner, int) else 4 * hidden
    head = getattr(config, "head_dim", None) or (hidden // heads if isinstance(heads, int) else None)
    yield inner
    if getattr(config, "use_double_wide_mlp", False):
        yield 2 * inner
    yield head if isinstance(head, int) else hidden


def has_gelu(config: PretrainedConfig) -> bool:
    """Whether GELU, in any of its forms, is the MLP's activation."""
    names = ("hidden_act", "hidden_activation", "activation_function")
    return any("gelu" in str(getattr(config, name, "")) for name in names)


def rope_types(config: PretrainedConfig) -> set[str]:
    """Kinds of rotary positions that a model has."""
    return {str(rope.get("rope_type", "default")) for rope in _ropes(config)}


def longrope_limit(config: PretrainedConfig) -> int | None:
    """Longest text that LongRoPE gives its short frequencies; which of the two a forward takes, its longest decides."""
    long = [rope for rope in _ropes(config) if rope.get("rope_type") == "longrope"]
    return min((rope["original_max_position_embeddings"] for rope in long), default=None)


def _ropes(config: PretrainedConfig) -> list[dict[str, Any]]:
    """Parameters of rotary positions: one set, or a set for each kind of layer and what they share."""
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return [parameters, *(part for part in parameters.values() if isinstance(part, dict))]


def made_bidirectional(config: PretrainedConfig) -> bool:
    """Whether the family's own flag alone says so (Gemma 3 and its successors); its windows exclude their bound."""
    text = config.get_text_config()
    own = getattr(text, "use_bidirectional_attention", None) in (True, "all")
    return own and getattr(text, "is_causal", None) is not False


def set_attention(config: PretrainedConfig, attention: Attention) -> None:
    """Write `is_causal` into the config and into the text decoder's, which in composite models is another object.

    A family with a flag of its own that is set already has its own window too, and keeps both: the general flag would
    widen the window by one, here and wherever the saved folder is loaded.
    """
    if attention is Attention.BIDIRECTIONAL and made_bidirectional(config):
        return
    for part in (config, config.get_text_config()):
        part.is_causal = attention is Attention.CAUSAL
