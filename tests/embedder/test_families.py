"""What families.py claims, measured on tiny random models: a transformers upgrade that changes a claim fails here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModel, PreTrainedModel

from decant.embedder import DecantError, Encoder, EncoderSpec, UnsupportedModelError, VerificationError
from decant.embedder.backbone import Backbone
from decant.embedder.families import (
    CAUSAL_BY_CONSTRUCTION,
    NOT_BIDIRECTIONAL,
    NOT_PACKED,
    NOT_PLAIN,
    PARTLY_CAUSAL,
)
from decant.embedder.spec import Attention
from decant.embedder.verify import LEAK
from decant.embedder.verify_copies import plain_copy

PACKED = """
    afmoe apertus arcee aria_text biogpt bitnet cohere cohere2 cohere2_moe ctrl cwm deepseek_v2 deepseek_v3
    diffllama ernie4_5 ernie4_5_moe exaone4 exaone_moe flex_olmo gemma gemma2 gemma3_text gemma4_text glm glm4
    glm4_moe glm4_moe_lite gpt2 gpt_bigcode gpt_neox gpt_oss granite granitemoe granitemoeshared helium
    hunyuan_v1_dense hunyuan_v1_moe jetmoe llama ministral ministral3 mistral mixtral modernbert-decoder
    nanochat olmo olmo2 olmo3 olmoe opt persimmon phi phi3 qwen2 qwen2_moe qwen3 qwen3_moe seed_oss smollm3
    solar_open starcoder2 vaultgemma
""".split()
EQUAL_LENGTH = """
    axk2 bloom codegen deepseek_v32 doge falcon glm_moe_dsa gpt_neox_japanese gptj hy_v4 mpt nemotron
    phimoe stablelm xglm
""".split()
ENCODERS = "bert camembert data2vec-text electra eurobert modernbert roberta xlm-roberta".split()
EQUAL_LENGTH_ENCODERS = "rembert roformer".split()
WINDOWED = "mistral ministral mixtral qwen2 gemma2 gemma3_text gemma4_text cohere2 gpt_oss exaone4 olmo3 phi3".split()

FIXED_MASK = {
    "gpt_neo": {"num_layers": 2, "attention_types": [[["global", "local"], 1]], "num_heads": 4, "window_size": 4},
    "openai-gpt": {"afn": "gelu"},
}
# Configurations in which every layer is of the kind that stays causal, and none attends.
RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {},
    "falcon_mamba": {},
    "mamba2": {"num_heads": 8, "state_size": 8, "n_groups": 1},
    "rwkv": {"attention_hidden_size": 32},
    "xlstm": {},
    "qwen3_next": {"layer_types": ["linear_attention"] * 2},
    "qwen3_5_text": {"layer_types": ["linear_attention"] * 2},
    "qwen3_5_moe_text": {"layer_types": ["linear_attention"] * 2},
    "lfm2": {"layer_types": ["conv"] * 2},
    "minimax": {"layer_types": ["linear_attention"] * 2},
    "lfm3": {},
    "lfm2_moe": {"layer_types": ["conv"] * 2, "num_dense_layers": 1},
    "bailing_hybrid": {},
    "qwen4_exp_text": {},
    "bamba": {
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_chunk_size": 8,
        "attn_layer_indices": [],
    },
    "granitemoehybrid": {
        "layer_types": ["linear_attention"] * 2,
        "mamba_n_heads": 8,
        "mamba_d_head": 8,
        "mamba_chunk_size": 8,
    },
    "nemotron_h": {"layers_block_type": ["linear_attention"] * 2, "mamba_num_heads": 8, "mamba_head_dim": 8},
    "jamba": {"attn_layer_period": 8, "attn_layer_offset": 4},
    "recurrent_gemma": {"block_types": ["recurrent"], "lru_width": 32},
}
# Eager attention of these crashes on the mask that is left out where nothing is hidden: they need a padding token.
MASK_MISSING = ("modernbert-decoder", "mpt")
LENGTHS = (9, 9, 5, 1)

HYBRID: dict[str, dict[str, Any]] = {
    "olmo_hybrid": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "minimax": {"layer_types": ["linear_attention", "full_attention"]},
}

Folders = Callable[..., Path]


def _load(folder: Path, attention: str, *, verify: bool = True) -> Backbone:
    spec = EncoderSpec(attention=Attention(attention), max_tokens=64)
    return Encoder.load(folder, dtype="float32", spec=spec, verify=verify).backbone


def _reference(folder: Path, attention: str) -> PreTrainedModel:
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    for config in (model.config, model.config.get_text_config()):
        config.is_causal = attention == "causal"
    return model


def _rows(seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(10, 300, (length,), generator=generator) for length in LENGTHS]


@torch.no_grad()
def _packed_states(backbone: Backbone, rows: list[Tensor], **options: Any) -> list[Tensor]:
    lengths = [len(row) for row in rows]
    return list(backbone(torch.cat(rows), backbone.layout(lengths, **options)).split(lengths))


@torch.no_grad()
def _own_states(model: PreTrainedModel, row: Tensor) -> Tensor:
    ids, mask = row[None], torch.ones_like(row[None])
    if model.config.model_type in MASK_MISSING:
        ids, mask = (torch.nn.functional.pad(x, (0, 1)) for x in (ids, mask))
    return model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[0, : len(row)]


def _assert_parity(backbone: Backbone, reference: PreTrainedModel) -> None:
    """Each text of a packed batch has the states that transformers gives it alone."""
    rows = _rows()
    for row, got in zip(rows, _packed_states(backbone, rows), strict=True):
        want = _own_states(reference, row)
        error = (got - want).abs().max().item() / max(1.0, want.abs().max().item())
        assert error <= 1e-5, f"a text of {len(row)} tokens is off by {error:.1e}"


def _assert_leaks(backbone: Backbone, attention: str) -> None:
    """The future is visible exactly where it should be, and no text sees its neighbours."""
    rows = _rows()
    changed = [torch.cat([rows[0][:-1], rows[0][-1:] ^ 1]), *_rows(1)[1:]]
    before, after = _packed_states(backbone, rows), _packed_states(backbone, changed)
    future = (before[0] - after[0])[:3].abs().max().item()
    assert future > LEAK if attention == "bidirectional" else future <= 1e-6, f"future leak {future:.1e}"
    alone = _packed_states(backbone, rows[:1])[0]
    neighbours = (before[0] - alone).abs().max().item()
    assert neighbours <= 1e-5, f"neighbour leak {neighbours:.1e}"


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("family", PACKED)
def test_family_runs_packed(family: str, attention: str, model_folder: Folders) -> None:
    folder = model_folder(family)
    backbone = _load(folder, attention)
    assert backbone.engine == "packed"
    trace: list[torch.nn.Module] = []
    _packed_states(backbone, _rows()[:1], trace=trace)
    assert len({id(module) for module in trace}) == backbone.config.num_hidden_layers
    _assert_parity(backbone, _reference(folder, attention))
    _assert_leaks(backbone, attention)


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("family", EQUAL_LENGTH)
def test_family_runs_in_equal_length_batches(family: str, attention: str, model_folder: Folders) -> None:
    folder = model_folder(family)
    backbone = _load(folder, attention)
    assert backbone.engine == "equal-length"
    _assert_parity(backbone, _reference(folder, attention))
    _assert_leaks(backbone, attention)


@pytest.mark.parametrize("family", [*ENCODERS, *EQUAL_LENGTH_ENCODERS])
def test_encoder_loads(family: str, model_folder: Folders) -> None:
    folder = model_folder(family, pad_token_id=1)
    backbone = _load(folder, "bidirectional")
    assert backbone.engine == ("packed" if family in ENCODERS else "equal-length")
    _assert_parity(backbone, _reference(folder, "bidirectional"))
    _assert_leaks(backbone, "bidirectional")


@pytest.mark.parametrize("family", [*PACKED, *EQUAL_LENGTH])
def test_sentence_transformers_reads_a_saved_copy_the_same(family: str, model_folder: Folders) -> None:
    """Or is led to Decant: families.NOT_PLAIN is no list of guesses, and complete for these."""
    spec = EncoderSpec(max_tokens=64)
    measured = plain_copy(Encoder.load(model_folder(family), dtype="float32", spec=spec, verify=False))
    assert measured.passed, measured.detail
    assert ("through Decant" in measured.detail) == (family in NOT_PLAIN)


@pytest.mark.parametrize("family", ["bert", "roberta", "electra", "rembert"])
def test_encoder_cannot_be_causal(family: str, model_folder: Folders) -> None:
    with pytest.raises(VerificationError, match="reference parity|future leak"):
        _load(model_folder(family), "causal")


@pytest.mark.parametrize("family", WINDOWED)
def test_window_reaches_packed_attention(family: str, model_folder: Folders, config_of: Callable[..., Any]) -> None:
    """A packed family with a window must differ from the same weights without; else parity above proves little."""
    config = config_of(family)
    width = config.max_position_embeddings
    narrow, wide = (
        _packed_states(_load(model_folder(family, sliding_window=w), "bidirectional", verify=False), _rows())[0]
        for w in (2, width)
    )
    assert (narrow - wide).abs().max() > 1e-4


@pytest.mark.parametrize("family", sorted(NOT_BIDIRECTIONAL))
def test_refusal_names_family_and_way_out(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(f'{{"model_type": "{family}"}}')
    with pytest.raises(
        UnsupportedModelError, match=f"{family}.* cannot be bidirectional: .*; load it with attention=causal"
    ):
        Backbone.load(tmp_path, Attention.BIDIRECTIONAL, device=torch.device("cpu"), dtype=None)


@pytest.mark.parametrize("family", sorted(FIXED_MASK))
def test_fixed_mask_stays_causal(family: str, model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(family, **FIXED_MASK[family])
    _assert_causal_equal_length(folder)
    monkeypatch.delitem(NOT_BIDIRECTIONAL, family)
    with pytest.raises(VerificationError, match="future leak"):
        _load(folder, "bidirectional")


@pytest.mark.parametrize("family", sorted(RECURRENT))
def test_recurrent_layers_stay_causal(family: str, model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    assert NOT_BIDIRECTIONAL[family] in (PARTLY_CAUSAL, CAUSAL_BY_CONSTRUCTION)
    folder = model_folder(family, **RECURRENT[family])
    _assert_causal_equal_length(folder)
    monkeypatch.delitem(NOT_BIDIRECTIONAL, family)
    with pytest.raises(VerificationError, match="future leak"):
        _load(folder, "bidirectional")


def _assert_causal_equal_length(folder: Path) -> None:
    backbone = _load(folder, "causal")
    assert backbone.engine == "equal-length"
    _assert_parity(backbone, _reference(folder, "causal"))
    _assert_leaks(backbone, "causal")


@pytest.mark.parametrize("family", sorted(HYBRID))
def test_hybrid_has_layers_of_both_kinds(family: str, config_of: Callable[..., Any]) -> None:
    """The reason given for refusing a hybrid: with the switch set, some layers see the next token and some do not."""
    config = config_of(family, **HYBRID[family])
    config.is_causal = False
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="eager").eval()
    sees_next: list[bool] = []

    def hook(layer: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        hidden = args[0].clone()
        hidden[:, 6] += 1
        moved = layer.forward(hidden, *args[1:], **kwargs)
        before, after = (x[0] if isinstance(x, tuple) else x for x in (output, moved))
        sees_next.append(bool((before - after)[:, 5].abs().max() > 1e-5))

    for layer in model.layers:
        layer.register_forward_hook(hook, with_kwargs=True)
    _own_states(model, _rows()[0])
    assert sorted(sees_next) == [False, True]


def test_llama4_is_bidirectional_for_short_texts_only(model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(
        "llama4_text",
        attention_chunk_size=4,
        intermediate_size_mlp=64,
        layer_types=["chunked_attention"] * 2,
        no_rope_layers=[1, 1],
    )
    _assert_causal_equal_length(folder)
    monkeypatch.delitem(NOT_BIDIRECTIONAL, "llama4_text")
    with pytest.raises(VerificationError, match="future leak"):
        _load(folder, "bidirectional")


@pytest.mark.parametrize("family", EQUAL_LENGTH + EQUAL_LENGTH_ENCODERS)
def test_packing_it_anyway_is_caught(family: str, model_folder: Folders, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family still belongs to NOT_PACKED, and if it did not stand there, loading would refuse it."""
    monkeypatch.delitem(NOT_PACKED, family)
    with pytest.raises(DecantError) as caught:
        _load(model_folder(family), "bidirectional")
    assert "\n" not in str(caught.value)


def test_every_measured_family_stands_in_one_table() -> None:
    assert not set(PACKED + ENCODERS) & set(NOT_PACKED)
    assert set(EQUAL_LENGTH + EQUAL_LENGTH_ENCODERS) <= set(NOT_PACKED)
    assert not set(PACKED + EQUAL_LENGTH) & set(NOT_BIDIRECTIONAL)
    assert set(FIXED_MASK) | set(RECURRENT) <= set(NOT_BIDIRECTIONAL) & set(NOT_PACKED)
