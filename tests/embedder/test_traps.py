"""The traps of bidirectional attention on transformers: each is shown to exist, and shown not to catch Decant."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModel, Gemma3Config

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.verify import LEAK, future_leak
from decant.kernels.attention import PackedLayout

TEXTS = ["Rivers carry water from the mountains to the sea.", "sea", "Short text.", "words and word"]
CAUSAL = EncoderSpec(attention="causal", max_tokens=48)
BIDIRECTIONAL = EncoderSpec(max_tokens=48)

Folders = Callable[..., Path]


@torch.no_grad()
def _leak(model: Any, length: int = 9) -> float:
    """How far the first states of a stock model move when the last token changes."""
    ids = torch.arange(20, 20 + length)[None]
    other = ids.clone()
    other[0, -1] = 99
    first, second = (
        model(input_ids=x, attention_mask=torch.ones_like(x), use_cache=False).last_hidden_state[0, :3]
        for x in (ids, other)
    )
    return (first - second).abs().max().item()


def test_encoders_of_both_kinds_share_a_process(model_folder: Folders) -> None:
    """The per-call race: one thread's switch must not reach another's forward, whoever loaded from the same folder."""
    folder = model_folder("qwen3")
    encoders = [Encoder.load(folder, dtype="float32", spec=spec) for spec in (BIDIRECTIONAL, CAUSAL)]
    expected = [encoder.encode(TEXTS).dense for encoder in encoders]
    assert np.abs(expected[0] - expected[1]).max() > 1e-2
    start = threading.Barrier(4)

    def run(which: int) -> list[bool]:
        start.wait()
        return [np.array_equal(encoders[which].encode(TEXTS).dense, expected[which]) for _ in range(25)]

    with ThreadPoolExecutor(4) as pool:
        results = [same for runs in pool.map(run, (0, 1, 0, 1)) for same in runs]
    assert len(results) == 100 and all(results)


def test_configurations_are_not_shared(model_folder: Folders) -> None:
    folder = model_folder("qwen3")
    one, two = (Encoder.load(folder, dtype="float32", spec=spec) for spec in (BIDIRECTIONAL, CAUSAL))
    assert one.backbone.model.config is not two.backbone.model.config
    assert (one.backbone.config.is_causal, two.backbone.config.is_causal) == (False, True)


def test_packed_rows_leak_in_transformers_and_not_here(model_folder: Folders) -> None:
    folder = model_folder()
    stock = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    stock.config.is_causal = False
    lengths = [5, 4]
    positions = PackedLayout.from_lengths(lengths, causal=False).position_ids()[None]
    rows = [torch.arange(20, 29)[None], torch.cat([torch.arange(20, 25), torch.arange(60, 64)])[None]]

    def packed(ids: Tensor) -> Tensor:
        with torch.no_grad():
            return stock(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state[0, :5]

    assert (packed(rows[0]) - packed(rows[1])).abs().max() > LEAK, "the trap is gone: transformers keeps rows apart"
    backbone = Encoder.load(folder, dtype="float32", spec=BIDIRECTIONAL).backbone
    ours = [backbone(ids[0], backbone.layout(lengths))[:5] for ids in rows]
    assert torch.equal(ours[0], ours[1])


@pytest.fixture
def composite(tmp_path: Path, config_of: Any, tokenizer_of: Any) -> Path:
    """A text-and-image model, whose text decoder has a configuration of its own."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    text = config_of("gemma3_text")
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text.to_dict(), vision_config=vision, mm_tokens_per_image=4, image_token_index=9)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tokenizer_of("byte").save_pretrained(tmp_path)
    return tmp_path


def test_composite_model_needs_both_flags(composite: Path) -> None:
    stock = AutoModel.from_pretrained(composite, attn_implementation="eager").eval()
    stock.config.is_causal = False
    assert _leak(stock) < 1e-6, "the trap is gone: the outer flag is enough"
    encoder = Encoder.load(composite, dtype="float32", spec=BIDIRECTIONAL)
    assert encoder.backbone.model.config.is_causal is False
    assert encoder.backbone.config.is_causal is False
    assert encoder.backbone.config is not encoder.backbone.model.config
    assert future_leak(encoder).value > LEAK
    assert future_leak(Encoder.load(composite, dtype="float32", spec=CAUSAL)).value < 1e-6


def test_saved_composite_model_stays_bidirectional(composite: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("saved") / "model"
    encoder = Encoder.load(composite, dtype="float32", spec=BIDIRECTIONAL)
    encoder.save(folder)
    assert _leak(AutoModel.from_pretrained(folder).eval()) > LEAK
    again = Encoder.load(folder, dtype="float32")
    assert np.array_equal(again.encode(TEXTS).dense, encoder.encode(TEXTS).dense)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "gpt2"])
def test_saved_flag_is_restored_by_plain_transformers(family: str, model_folder: Folders, tmp_path: Path) -> None:
    folder = model_folder(family)
    assert _leak(AutoModel.from_pretrained(folder).eval()) < 1e-6
    Encoder.load(folder, dtype="float32", spec=BIDIRECTIONAL).save(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert config["is_causal"] is False
    assert "decant" not in json.dumps(config), "nothing of Decant is needed to load the folder"
    assert _leak(AutoModel.from_pretrained(tmp_path / "saved").eval()) > LEAK


def test_flag_as_loading_argument_fails_without_the_key(model_folder: Folders) -> None:
    """Why Decant writes the key instead of passing it on."""
    folder = model_folder()
    assert "is_causal" not in json.loads((folder / "config.json").read_text())
    with pytest.raises(TypeError, match="is_causal"):
        AutoModel.from_pretrained(folder, is_causal=False)
    assert future_leak(Encoder.load(folder, dtype="float32")).value > LEAK


def test_windows_reach_as_far_as_in_transformers(model_folder: Folders) -> None:
    """Causal window w: a token and the w - 1 before it. Bidirectional: w tokens to either side."""
    for spec, before, after in ((CAUSAL, 3, 0), (BIDIRECTIONAL, 4, 4)):
        folder = model_folder("mistral", num_hidden_layers=1, sliding_window=4)
        backbone = Encoder.load(folder, dtype="float32", spec=spec, verify=False).backbone
        ids = torch.arange(20, 40)
        layout = backbone.layout([20])
        moved = []
        for i in range(20):
            other = ids.clone()
            other[i] = 99
            moved.append(bool((backbone(other, layout)[10] - backbone(ids, layout)[10]).abs().max() > 0))
        assert [i - 10 for i, seen in enumerate(moved) if seen] == list(range(-before, after + 1))


def test_long_neighbour_does_not_turn_the_frequencies(model_folder: Folders) -> None:
    """LongRoPE (Phi-3, Phi-4-mini) takes the frequencies of a whole batch from its longest text."""
    rope = {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "factor": 4.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 16,
    }
    folder = model_folder("phi3", rope_parameters=rope, original_max_position_embeddings=16, sliding_window=None)
    texts = [*TEXTS, "word " * 30, "sea " * 25]
    encoder = Encoder.load(folder, dtype="float32", spec=BIDIRECTIONAL)
    result = encoder.encode(texts)
    assert result.dense is not None and result.tokens.min() < 16 < np.sort(result.tokens)[-2]
    stock = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    stock.config.is_causal = False
    for i, ids in enumerate(encoder.text_tokenizer(texts).ids):
        with torch.no_grad():
            mean = stock(input_ids=torch.from_numpy(ids)[None].long(), use_cache=False).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(result.dense[i], (mean / mean.norm()).numpy(), rtol=0, atol=1e-5)


def test_stock_sdpa_ignores_the_flag_where_layers_do_not_pass_it_on(model_folder: Folders) -> None:
    """Why families outside the packed engine run on eager attention."""
    folder = model_folder("nemotron")
    models = [AutoModel.from_pretrained(folder, attn_implementation=name).eval() for name in ("sdpa", "eager")]
    for model in models:
        model.config.is_causal = False
    assert _leak(models[0]) < 1e-6, "the trap is gone: SDPA is bidirectional"
    assert _leak(models[1]) > LEAK
    assert future_leak(Encoder.load(folder, dtype="float32", spec=BIDIRECTIONAL)).value > LEAK


def test_language_model_folder_loads_as_its_decoder(new_model: Folders) -> None:
    """What most folders hold: a decoder under a language-model head, which the encoder leaves aside."""
    whole = new_model("qwen3", lm=True, name="lm")
    assert json.loads((whole / "config.json").read_text())["architectures"] == ["Qwen3ForCausalLM"]
    encoder = Encoder.load(whole, dtype="float32")
    encoder.save(whole.parent / "saved")
    again = Encoder.load(whole.parent / "saved", dtype="float32")
    assert np.array_equal(again.encode(TEXTS).dense, encoder.encode(TEXTS).dense)
