"""Recipes of what answers, and the training of cross-attention blocks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from decant.embedder.errors import DecantError
from decant.rag.reader.recipe import ReaderRecipe
from decant.rag.training import rag_recipe
from decant.rag.writer.recipe import WriterRecipe
from decant.rag.xc.decoder import XcDecoder
from decant.rag.xc.recipe import XcRecipe
from decant.rag.xc.training import XcTrainer

RECIPES = Path(__file__).parents[3] / "recipes"


def recipe(decoder: Path, **changes: object) -> XcRecipe:
    sizes = {"blocks": 2, "stride": 1, "hidden": 32, "heads": 4, "kv_heads": 2, "inner": 64, "context_tokens": 32}
    steps = {"steps": 60, "warmup_steps": 5, "checkpoint_steps": 20, "batch_questions": 8, "learning_rate": 1e-2}
    return XcRecipe(
        **{"model": str(decoder), "questions": "qa.jsonl.gz", "dev_articles": 1, **sizes, **steps, **changes}
    )


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_the_right_context_is_worth_more_than_another(decoder_folder, letters, tmp_path, weight):
    trainer = XcTrainer(letters, tmp_path / "run", recipe(decoder_folder, teacher_weight=weight, repeat_share=0.3))
    base = {name: value.clone() for name, value in trainer.model.base.state_dict().items()}
    trainer.run()
    with (tmp_path / "run" / "loss.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-8:]) < np.mean(losses[:8])
    rows = [0, 1, 2, 3]
    right, _ = trainer.batch_loss(rows, repeat=False)
    wrong, _ = trainer.batch_loss(rows, repeat=False, shuffled=True)
    assert right < wrong
    plain = {name: value for name, value in trainer.model.base.state_dict().items() if name in base}
    assert all(torch.equal(value, base[name]) for name, value in plain.items())
    again = XcDecoder.load(tmp_path / "run" / "adapter", LlamaForCausalLM.from_pretrained(decoder_folder))
    ids, context = torch.arange(4)[None], torch.randn(5, 32)
    with torch.no_grad():
        expected = trainer.model(ids, trainer.model.remember(context, [5])).logits
        torch.testing.assert_close(again(ids, again.remember(context, [5])).logits, expected)


def test_recipes_that_ship_are_read(monkeypatch, decoder_folder):
    monkeypatch.setenv("MODEL", str(decoder_folder))
    kinds = {path.name: type(rag_recipe(path)) for path in sorted(RECIPES.glob("xc-*.yaml"))}
    assert set(kinds.values()) == {XcRecipe, ReaderRecipe, WriterRecipe}
    assert rag_recipe(RECIPES / "xc-llama.yaml").model == str(decoder_folder)
    assert rag_recipe(RECIPES / "own-pairs.yaml") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: xc\n", "model is missing"),
        ("step: reader\nstpes: 3\n", "stpes is unknown"),
        ("step: reader\nsteps: many\n", "steps must be"),
    ],
)
def test_a_typo_in_a_recipe_is_named(tmp_path, text, message):
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(DecantError, match=message):
        rag_recipe(tmp_path / "r.yaml")


def test_changes_go_over_the_recipe(tmp_path):
    (tmp_path / "r.yaml").write_text("step: reader\n")
    assert rag_recipe(tmp_path / "r.yaml", ["steps=7"]).steps == 7
    with pytest.raises(DecantError, match="KEY=VALUE"):
        rag_recipe(tmp_path / "r.yaml", ["steps"])
