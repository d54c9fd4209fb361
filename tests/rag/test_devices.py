"""The trainings of what answers on a device that only says that it is another one than the CPU."""

import csv
import gzip
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from decant.embedder import ModelError
from decant.rag.reader.recipe import ReaderRecipe
from decant.rag.training import RagRecipe, run_rag_recipe
from decant.rag.xc.recipe import XcRecipe

sys.path.insert(0, str(Path(__file__).parents[1] / "embedder"))

from pretended import NAME, Pretended


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"query": f"Which letter {i}?", "positive": f"It is {letter} here.", "title": f"t{i % 4}", "answers": [letter],
         "answer_start": 6}
        for i, letter in enumerate("abcdefgh" * 4)
    ]  # fmt: skip
    with gzip.open(tmp_path / "qa.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return tmp_path


@pytest.fixture(params=["xc", "reader"])
def recipe(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> RagRecipe:
    if request.param == "reader":
        return ReaderRecipe(
            model=str(tiny_model), questions="qa.jsonl.gz", dev_articles=1, width=16, layers=1, dropout=0.0, cut=0.2,
            batch_tokens=200, steps=3, warmup_steps=1, checkpoint_steps=2, calibration_questions=0,
        )  # fmt: skip
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "decoder")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "decoder")
    return XcRecipe(
        model=str(tmp_path / "decoder"), questions="qa.jsonl.gz", dev_articles=1, blocks=2, stride=1, hidden=32,
        heads=4, kv_heads=2, inner=64, teacher_weight=0.5, context_tokens=32, batch_questions=6, steps=3,
        warmup_steps=1, checkpoint_steps=2,
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    with (folder / "loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_training_computes_where_it_is_told_to(recipe, data, tmp_path):
    run_rag_recipe(recipe, data, tmp_path / "here", "cpu")
    with Pretended() as pretended:
        run_rag_recipe(recipe, data, tmp_path / "there", NAME)
    assert pretended.products == {NAME}
    # The CPU's own autocast does not reach the device, so roundings differ.
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "here"), rel=0.05)


def test_a_device_that_is_not_there_is_refused(recipe, data, tmp_path):
    with pytest.raises(ModelError, match="device cuda:99 cannot be used"):
        run_rag_recipe(recipe, data, tmp_path / "run", "cuda:99")
