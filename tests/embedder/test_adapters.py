"""PEFT adapters: merged and felt, or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from decant.embedder import Encoder, EncoderSpec, ModelError

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

TEXTS = ["Rivers carry water from the mountains to the sea.", "sea", "Short text."]
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn"], "gpt_neox": ["query_key_value"], "bert": ["query"]}
STATE = "adapter_model.safetensors"

Folders = Callable[..., Path]
Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Save an adapter whose weights are random, as if trained; `merged` gets the base with the adapter in it."""

    def make(
        base: Path, targets: list[str], *, lm: bool = True, merged: bool = False, name: str = "adapter", **options: Any
    ) -> Path:
        model = (AutoModelForCausalLM if lm else AutoModel).from_pretrained(base)
        torch.manual_seed(3)
        task = "CAUSAL_LM" if lm else None
        wrapped: Any = get_peft_model(model, LoraConfig(task_type=task, r=4, target_modules=targets, **options))
        for key, value in wrapped.named_parameters():
            if "lora_" in key or "modules_to_save" in key:
                torch.nn.init.normal_(value, std=0.3)
        wrapped.save_pretrained(tmp_path / name)
        if merged:
            whole = wrapped.merge_and_unload()
            (whole.base_model if lm else whole).save_pretrained(tmp_path / "merged")
            for file in base.glob("tokenizer*"):
                (tmp_path / "merged" / file.name).write_bytes(file.read_bytes())
        return tmp_path / name

    return make


def _dense(folder: Path) -> np.ndarray:
    dense = Encoder.load(folder, dtype="float32", spec=EncoderSpec(max_tokens=48)).encode(TEXTS).dense
    assert dense is not None
    return dense


def _assert_refused(folder: Path, match: str) -> None:
    with pytest.raises(ModelError, match=match) as caught:
        Encoder.load(folder, dtype="float32")
    assert "\n" not in str(caught.value)


class TestMerging:
    @pytest.mark.parametrize(
        ("family", "lm"), [("llama", True), ("llama", False), ("gpt2", True), ("gpt_neox", True), ("bert", False)]
    )
    def test_is_the_merged_model(self, family: str, lm: bool, new_model: Folders, train: Train, tmp_path: Path) -> None:
        base = new_model(family, lm=lm, name="base")
        adapter = train(base, TARGETS[family], lm=lm, merged=True, fan_in_fan_out=family == "gpt2")
        got = _dense(adapter)
        np.testing.assert_allclose(got, _dense(tmp_path / "merged"), rtol=0, atol=1e-5)
        assert np.abs(got - _dense(base)).max() > 1e-3, "the adapter takes effect"

    @pytest.mark.parametrize(
        "options",
        [{"use_dora": True}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}, {"bias": "none"}],
        ids=str,
    )
    def test_variants_of_lora(self, options: dict[str, Any], new_model: Folders, train: Train, tmp_path: Path) -> None:
        adapter = train(new_model(lm=True, name="base"), ["q_proj", "v_proj"], merged=True, **options)
        np.testing.assert_allclose(_dense(adapter), _dense(tmp_path / "merged"), rtol=0, atol=1e-5)

    def test_whole_modules_it_brings(self, new_model: Folders, train: Train, tmp_path: Path) -> None:
        base = new_model(lm=True, name="base")
        adapter = train(base, ["q_proj"], merged=True, modules_to_save=["embed_tokens"])
        np.testing.assert_allclose(_dense(adapter), _dense(tmp_path / "merged"), rtol=0, atol=1e-5)

    def test_base_beside_the_adapter(self, new_model: Folders, train: Train) -> None:
        adapter = train(new_model(lm=True, name="base"), ["q_proj"])
        _edit(adapter, base_model_name_or_path="../base")
        assert np.isfinite(_dense(adapter)).all()

    def test_saved_copy_needs_neither(self, new_model: Folders, train: Train, tmp_path: Path) -> None:
        adapter = train(new_model(lm=True, name="base"), ["q_proj"])
        encoder = Encoder.load(adapter, dtype="float32")
        encoder.save(tmp_path / "saved")
        assert not list((tmp_path / "saved").glob("adapter*"))
        assert np.array_equal(
            Encoder.load(tmp_path / "saved", dtype="float32").encode(TEXTS).dense, encoder.encode(TEXTS).dense
        )

    def test_fingerprint_covers_the_adapter(self, new_model: Folders, train: Train) -> None:
        base = new_model(lm=True, name="base")
        adapter = train(base, ["q_proj"])
        before = Encoder.load(adapter, dtype="float32").fingerprint
        state = load_file(adapter / STATE)
        next(iter(state.values()))[0] += 1
        save_file(state, adapter / STATE)
        assert len({before, Encoder.load(adapter).fingerprint, Encoder.load(base).fingerprint}) == 3


def _edit(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not ...}))


class TestRefusal:
    @pytest.fixture
    def adapter(self, new_model: Folders, train: Train) -> Path:
        return train(new_model(lm=True, name="base"), ["q_proj"])

    def test_another_base(self, adapter: Path, new_model: Folders) -> None:
        other = new_model(name="other", hidden_size=48, head_dim=12)
        _edit(adapter, base_model_name_or_path=str(other))
        _assert_refused(adapter, "does not fit the model")

    def test_base_of_another_family(self, adapter: Path, new_model: Folders) -> None:
        _edit(adapter, base_model_name_or_path=str(new_model("gpt2", name="other")))
        _assert_refused(adapter, "does not fit the model")

    def test_deeper_base_than_it_was_trained_on(self, adapter: Path, new_model: Folders) -> None:
        _edit(adapter, base_model_name_or_path=str(new_model(name="other", num_hidden_layers=3)))
        _assert_refused(adapter, "does not fit the model: .* weights")

    def test_shapes(self, adapter: Path) -> None:
        state = load_file(adapter / STATE)
        save_file({key: value[:2].contiguous() for key, value in state.items()}, adapter / STATE)
        _assert_refused(adapter, r"does not fit the model: .* is \(2, ")

    def test_names_that_would_be_ignored(self, adapter: Path) -> None:
        """The fault behind Qwen3-Embedding#167: an adapter left at zero gives the base model's vectors, no error."""
        state = load_file(adapter / STATE)
        save_file({key.replace("layers", "blocks"): value for key, value in state.items()}, adapter / STATE)
        _assert_refused(adapter, "does not fit the model: .* weights")

    def test_half_of_its_weights(self, adapter: Path) -> None:
        state = load_file(adapter / STATE)
        save_file({key: value for key, value in state.items() if "layers.0" in key}, adapter / STATE)
        _assert_refused(adapter, "does not fit the model: 2 weights")

    def test_base_that_is_not_here(self, adapter: Path) -> None:
        _edit(adapter, base_model_name_or_path="/nowhere/base")
        _assert_refused(adapter, "no model folder at /nowhere/base")

    @pytest.mark.parametrize("base", [None, "", ...], ids=["null", "empty", "absent"])
    def test_no_base_named(self, base: Any, adapter: Path) -> None:
        _edit(adapter, base_model_name_or_path=base)
        _assert_refused(adapter, "names no base model")

    def test_missing_weights(self, adapter: Path) -> None:
        (adapter / STATE).unlink()
        _assert_refused(adapter, "adapter")

    def test_corrupt_weights(self, adapter: Path) -> None:
        (adapter / STATE).write_bytes((adapter / STATE).read_bytes()[:200])
        _assert_refused(adapter, "cannot read the adapter")

    def test_broken_configuration(self, adapter: Path) -> None:
        (adapter / "adapter_config.json").write_text("{broken")
        _assert_refused(adapter, "adapter_config.json")

    def test_unknown_kind(self, adapter: Path) -> None:
        _edit(adapter, peft_type="MAGIC")
        _assert_refused(adapter, "cannot read the adapter")

    def test_prompt_tuning_cannot_be_merged(self, adapter: Path) -> None:
        config = {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 2, "base_model_name_or_path": "../base"}
        (adapter / "adapter_config.json").write_text(json.dumps(config))
        _assert_refused(adapter, "cannot be merged")
