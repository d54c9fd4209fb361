"""What the writer is trained on, and that a run goes on where it was stopped."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from decant.embedder import Encoder, EncoderSpec
from decant.rag import GeneratorError
from decant.rag.reader.adapter import TrainedReader, weights_digest
from decant.rag.reader.confidence import Calibration
from decant.rag.reader.model import ReaderConfig, SpanReader
from decant.rag.reader.traits import token_traits
from decant.rag.writer import training
from decant.rag.writer.adapter import TrainedWriter
from decant.rag.writer.recipe import WriterRecipe
from decant.rag.writer.training import WriterTrainer


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model, dtype="float32", spec=EncoderSpec(max_tokens=64), verify=False)


@pytest.fixture
def recipe(encoder: Encoder, tmp_path: Path) -> WriterRecipe:
    torch.manual_seed(0)
    reader = SpanReader(ReaderConfig(encoder.backbone.hidden_size, encoder.text_tokenizer.vocabulary_size, 16))
    folded, traits = token_traits(encoder)
    reader.folded.copy_(folded)
    reader.traits.copy_(traits)
    TrainedReader(reader, Calibration(), weights_digest(encoder)).save(tmp_path / "reader")
    return WriterRecipe(
        reader=str(tmp_path / "reader"), questions="pairs/qa.jsonl.gz", dev_articles=1, asked=20, passages=4, blocks=1,
        stride=1, hidden=16, heads=4, inner=24, dropout=0.1, batch_questions=4, steps=6, learning_rate=5e-3,
        reader_rate=1.0, warmup_steps=1, checkpoint_steps=2, swapped=0.0, calibration_questions=0,
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    with (folder / "loss.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(encoder, facts, recipe, tmp_path):
    whole = WriterTrainer(encoder, facts, tmp_path / "a", recipe)
    whole.run()
    broken = WriterTrainer(encoder, facts, tmp_path / "b", recipe)
    go_on = broken.loss

    def stop(step: int):
        if step == 3:
            raise KeyboardInterrupt
        return go_on(step)

    broken.loss = stop
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = WriterTrainer(encoder, facts, tmp_path / "b", recipe)
    again.run()
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    parameters = dict(again.writer.named_parameters())
    for name, value in whole.writer.named_parameters():
        assert not value.requires_grad or torch.equal(value, parameters[name]), name
    loaded = TrainedWriter.load(tmp_path / "b" / "adapter", encoder)
    assert loaded.passages == 4
    assert json.loads((tmp_path / "b" / "dev.json").read_text())["gold_passage"]["questions"] == 10


def test_it_learns(encoder, facts, recipe, tmp_path):
    trainer = WriterTrainer(encoder, facts, tmp_path / "a", replace(recipe, steps=24, absent=0.0, cut=0.0, dropout=0.0))
    trainer.run()
    seen = losses(tmp_path / "a")
    assert np.mean(seen[-6:]) < 0.8 * np.mean(seen[:6])


def test_which_passages_a_question_is_asked_of(encoder, facts, recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "altered", lambda questions, seed: [f"Else {text}" for text in questions.texts])
    changed = replace(recipe, absent=0.2, cut=0.2, swapped=0.2, asked=100)
    trainer = WriterTrainer(encoder, facts, tmp_path / "a", changed)
    material, examples = trainer.material, trainer.examples
    assert not material.data.dev[[row for row, _ in examples._rows]].any()
    drawn = [example for step in range(40) for example in examples.batch(step)]
    again = [example for step in range(40) for example in examples.batch(step)]
    assert [len(e.passages) for e in drawn] == [len(e.passages) for e in again]
    assert {len(e.passages) for e in drawn} >= {1, 2, 4}
    assert max(len(e.passages) for e in drawn) == 4
    answered = [e for e in drawn if e.target]
    assert 0.3 < len(answered) / len(drawn) < 0.75
    for example in answered:
        texts = [states.ids.tolist() for states in example.passages]
        size = len(example.target)
        assert any(text[i : i + size] == example.target for text in texts for i in range(len(text)))
    own = {len(material.asked[i]) for i in range(len(material.asked))}
    assert any(len(e.asked) > max(own) for e in drawn if not e.target)  # asked in its other form
    assert all(len(e.asked) in own for e in answered)


def test_what_is_found_without_the_answer_does_not_hold_it(encoder, facts, recipe, tmp_path):
    examples = WriterTrainer(encoder, facts, tmp_path / "a", replace(recipe, absent=1.0)).examples
    material = examples._material
    texts = {tuple(material.passages[i].ids): text for i, text in enumerate(material.data.passages)}
    drawn = [example for step in range(len(examples) // 4) for example in examples.batch(step)]
    unanswered = [(e, row) for e, (row, _) in zip(drawn, examples._rows, strict=False) if not e.target]
    assert len(unanswered) > 10
    for example, row in unanswered:
        assert not any(material.data.answers[row] in texts[tuple(own.ids)] for own in example.passages)


def test_what_was_found_is_found_once(encoder, facts, recipe, tmp_path, monkeypatch):
    first = WriterTrainer(encoder, facts, tmp_path / "a", recipe)
    monkeypatch.setattr("decant.rag.writer.examples.Searcher", None)
    again = WriterTrainer(encoder, facts, tmp_path / "a", recipe)
    assert [passages for _, passages in first.examples._rows] == [passages for _, passages in again.examples._rows]


def test_a_reader_of_another_encoder_is_refused(encoder, facts, recipe, tmp_path):
    with pytest.raises(GeneratorError, match="trained on another encoder"):
        WriterTrainer(encoder, facts, tmp_path / "a", replace(recipe, reader=""))
