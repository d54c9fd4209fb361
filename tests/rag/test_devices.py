"""The trainings of what answers on a device that only says that it is another one than the CPU."""

import csv
import sys
from pathlib import Path

import pytest
import torch

from decant.embedder import Encoder, ModelError
from decant.rag.reader.adapter import TrainedReader, weights_digest
from decant.rag.reader.confidence import Calibration
from decant.rag.reader.model import ReaderConfig, SpanReader
from decant.rag.reader.recipe import ReaderRecipe
from decant.rag.training import RagRecipe, run_rag_recipe
from decant.rag.writer.recipe import WriterRecipe
from decant.rag.xc.recipe import XcRecipe

sys.path.insert(0, str(Path(__file__).parents[1] / "embedder"))

from pretended import NAME, Pretended


@pytest.fixture(params=["xc", "reader", "writer"])
def recipe(request: pytest.FixtureRequest, tiny_model: Path, decoder_folder: Path, tmp_path: Path) -> RagRecipe:
    if request.param == "reader":
        return ReaderRecipe(
            model=str(tiny_model), questions="qa.jsonl.gz", dev_articles=1, width=16, layers=1, dropout=0.0, cut=0.2,
            batch_tokens=200, steps=3, warmup_steps=1, checkpoint_steps=2, calibration_questions=0,
        )  # fmt: skip
    if request.param == "writer":
        return WriterRecipe(
            model=str(tiny_model), reader=str(random_reader(tiny_model, tmp_path / "reader")), questions="qa.jsonl.gz",
            dev_articles=1, passages=2, blocks=1, stride=1, hidden=16, heads=4, inner=24, dropout=0.0, cut=0.2,
            swapped=0.0, batch_questions=6, steps=3, warmup_steps=1, checkpoint_steps=2, calibration_questions=0,
        )  # fmt: skip
    return XcRecipe(
        model=str(decoder_folder), questions="qa.jsonl.gz", dev_articles=1, blocks=2, stride=1, hidden=32,
        heads=4, kv_heads=2, inner=64, teacher_weight=0.5, context_tokens=32, batch_questions=6, steps=3,
        warmup_steps=1, checkpoint_steps=2,
    )  # fmt: skip


def random_reader(model: Path, folder: Path) -> Path:
    encoder = Encoder.load(model)
    torch.manual_seed(0)
    sizes = ReaderConfig(encoder.backbone.hidden_size, encoder.text_tokenizer.vocabulary_size, width=16, layers=1)
    TrainedReader(SpanReader(sizes), Calibration(), weights_digest(encoder)).save(folder)
    return folder


def losses(folder: Path) -> list[float]:
    with (folder / "loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_training_computes_where_it_is_told_to(recipe, letters, tmp_path):
    run_rag_recipe(recipe, letters, tmp_path / "here", "cpu")
    with Pretended() as pretended:
        run_rag_recipe(recipe, letters, tmp_path / "there", NAME)
    assert pretended.products == {NAME}
    # The CPU's own autocast does not reach the device, so roundings differ.
    assert losses(tmp_path / "there") == pytest.approx(losses(tmp_path / "here"), rel=0.05)


def test_a_device_that_is_not_there_is_refused(recipe, letters, tmp_path):
    with pytest.raises(ModelError, match="device cuda:99 cannot be used"):
        run_rag_recipe(recipe, letters, tmp_path / "run", "cuda:99")
