"""Experts are the dense model's own neurons: with all of them chosen alike, the model is the dense one."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
from models import make_base, recipe

from decant.embedder import Encoder
from decant.embedder.formats.folder import DEFAULT_MODEL
from decant.embedder.training.data import read_pair_data
from decant.embedder.training.experts import balanced_groups, make_experts
from decant.embedder.training.model_training import train_model
from decant.embedder.training.scratch import make_decoder
from decant.embedder.training.settings import RecipeError
from decant.embedder.training.sources import DataError
from decant.embedder.training.training_recipe import DataSettings, DecoderSettings

IDS = torch.arange(5, 25)[None]


@pytest.fixture
def dense(tmp_path):
    """A tiny Llama with a wide feed-forward layer."""
    return make_base(tmp_path / "dense", "llama", intermediate_size=64)


@torch.no_grad()
def logits(model):
    return model.eval()(input_ids=IDS, use_cache=False).logits


def test_all_experts_alike_are_the_dense_model(dense):
    model = make_experts(dense, {"num_experts": 4, "num_experts_per_tok": 4}, seed=0)
    for layer in model.model.layers:
        layer.mlp.gate.weight.data.zero_()
    plain = AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32)
    torch.testing.assert_close(logits(model), logits(plain), atol=1e-5, rtol=1e-4)
    assert model.num_parameters() - plain.num_parameters() == 2 * (4 * 32 + 32)  # routers and shared gates only


def test_chosen_experts_stay_near_the_dense_model(dense):
    plain = logits(AutoModelForCausalLM.from_pretrained(dense, dtype=torch.float32))
    found = logits(make_experts(dense, {"num_experts": 4, "num_experts_per_tok": 2}, seed=0))
    assert functional.cosine_similarity(found, plain, dim=-1).mean() > 0.9
    assert not torch.allclose(found, plain)


def test_groups_are_equal_in_size_and_alike_in_direction():
    rng = torch.Generator().manual_seed(0)
    centres = functional.normalize(torch.randn(3, 16, generator=rng), dim=1)
    rows = functional.normalize(centres.repeat_interleave(8, 0) + 0.05 * torch.randn(24, 16, generator=rng), dim=1)
    groups = balanced_groups(rows, 3, torch.Generator().manual_seed(2))
    assert sorted(torch.cat(groups).tolist()) == list(range(24))
    assert [len(group) for group in groups] == [8, 8, 8]


def test_what_does_not_divide_is_refused(dense):
    with pytest.raises(RecipeError, match="do not divide"):
        make_experts(dense, {"num_experts": 5}, seed=0)
    with pytest.raises(RecipeError, match="cannot load"):
        make_experts(dense.parent / "gone", {}, seed=0)


def test_a_recipe_goes_from_pairs_to_a_half_precision_encoder_with_routers(dense, tmp_path):
    pairs = [{"query": f"what is word {i}", "positive": f"word {i} is a thing of {i} parts"} for i in range(12)]
    columns = {key: [pair[key] for pair in pairs] for key in ("query", "positive")}
    pq.write_table(pa.table({**columns, "source": ["a"] * 12}), tmp_path / "pairs.parquet")
    np.savez(tmp_path / "pairs.npz", dev=np.arange(12) < 4)
    kept = read_pair_data("pairs", DataSettings([str(tmp_path / "pairs.parquet")]), {}).pairs
    assert [pair.query for pair in kept] == columns["query"][4:]
    values = {
        "decoder": {
            "architecture": "qwen2_moe",
            "tokenizer": str(dense),
            "experts_of": str(dense),
            "config": {"num_experts": 4, "num_experts_per_tok": 2},
        },
        "encoder": {"attention": "bidirectional", "pooling": "mean", "router": {"pooling": "mean"}},
        "data": {"pairs": {"files": [str(tmp_path / "pairs.parquet")]}},
        "objectives": [{"kind": "contrastive", "batch_pairs": 4, "query_tokens": 16, "passage_tokens": 16}],
        "freeze_embeddings": True,
        "steps": 2,
        "saved_dtype": "float16",
    }
    out = train_model(recipe(values), tmp_path / "run", variables={}, device="cpu")
    encoder = Encoder.load(out, dtype="checkpoint")
    assert encoder.backbone.dtype == torch.float16 and encoder.outputs == ("dense", "router")
    found = Encoder.load(out, dtype="float32").encode(["a word", "another"], outputs=("router",)).router
    assert found is not None and found.shape == (2, 8)


def test_a_table_without_its_pairs_step_is_refused(tmp_path):
    pq.write_table(pa.table({"query": ["a"], "positive": ["b"]}), tmp_path / "pairs.parquet")
    with pytest.raises(DataError, match="not the result of a pairs step"):
        read_pair_data("pairs", DataSettings([str(tmp_path / "pairs.parquet")]), {})


def test_a_llama_with_biases_is_refused(tmp_path):
    settings = DecoderSettings("qwen2_moe", "", {"num_experts": 8, "num_experts_per_tok": 2})
    with pytest.raises(RecipeError, match="has biases, for which a qwen2_moe has no place"):
        make_decoder(settings, DEFAULT_MODEL, 0, tmp_path / "moe", DEFAULT_MODEL)
