from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from transformers import AutoConfig

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.model_config import (
    elementwise_widths,
    first_position,
    has_gelu,
    longrope_limit,
    made_bidirectional,
    rope_types,
    set_attention,
)
from decant.embedder.spec import Attention

LONG: dict[str, Any] = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0] * 8,
    "long_factor": [4.0] * 8,
    "factor": 4.0,
    "original_max_position_embeddings": 24,
}


def config_of(family: str, **options: Any) -> Any:
    return AutoConfig.for_model(family, hidden_size=64, num_attention_heads=4, head_dim=16, **options)


def test_widths_of_every_layer_count(encoder_of: Callable[..., Encoder]) -> None:
    encoder = encoder_of(EncoderSpec(), "gemma4_text", use_double_wide_mlp=True)
    config = encoder.backbone.config
    heads = {layer.head_dim for layer in config.per_layer_config}
    assert len(heads) == 2
    assert set(elementwise_widths(config)) == heads | {config.intermediate_size, 2 * config.intermediate_size}


def test_gelu_goes_by_several_names() -> None:
    assert has_gelu(AutoConfig.for_model("gpt2")) and has_gelu(AutoConfig.for_model("gemma2"))
    assert not has_gelu(AutoConfig.for_model("llama"))


def test_rotary_positions_of_one_kind_and_of_several() -> None:
    plain, by_layer = config_of("llama"), config_of("gemma3_text")
    long = config_of("phi3", rope_parameters={**LONG}, original_max_position_embeddings=24)
    assert rope_types(plain) == rope_types(by_layer) == {"default"}
    assert rope_types(long) == {"longrope"}
    by_layer.rope_parameters["full_attention"] = LONG
    assert rope_types(by_layer) == {"default", "longrope"}
    assert [longrope_limit(config) for config in (plain, long, by_layer)] == [None, 24, 24]
    assert rope_types(AutoConfig.for_model("gpt2")) == {"default"}


@pytest.mark.parametrize(
    ("family", "padding", "first"), [("roberta", 1, 2), ("roberta", None, 2), ("bert", 0, 0), ("llama", 5, 0)]
)
def test_some_families_count_from_behind_the_padding_token(family: str, padding: int | None, first: int) -> None:
    assert first_position(AutoConfig.for_model(family, pad_token_id=padding)) == first


def test_attention_is_written_into_both_parts_of_a_composite_model() -> None:
    config = AutoConfig.for_model("gemma3")
    for attention in Attention:
        set_attention(config, attention)
        assert {config.is_causal, config.get_text_config().is_causal} == {attention is Attention.CAUSAL}


def test_a_familys_own_flag_stays_the_only_one() -> None:
    config = config_of("gemma3_text", use_bidirectional_attention=True)
    set_attention(config, Attention.BIDIRECTIONAL)
    assert made_bidirectional(config) and getattr(config, "is_causal", None) is not False
