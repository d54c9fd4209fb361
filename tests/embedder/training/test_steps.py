import dataclasses
import json

import numpy as np
import pytest
import torch

from decant.embedder import Encoder
from decant.embedder.training import distillation, term_head
from decant.embedder.training.packed_texts import PackedTexts
from decant.embedder.training.recipe import ExportRecipe
from decant.embedder.training.run import CHECKPOINT, Schedule, StepResult, train
from decant.embedder.training.settings import RecipeError
from decant.embedder.training.sources import DataError
from decant.embedder.training.states import hidden_states, text_means
from decant.embedder.training.steps import Run

ROWS = [np.asarray(row) for row in ([1, 20, 30, 40], [1, 50], [1, 60, 61, 62, 63, 64], [1, 20, 30, 41])]


def test_a_finished_step_is_not_done_again(finished_run, recipes):
    assert not any(finished_run.do(recipe) for recipe in recipes.values())


def test_other_settings_are_refused(finished_run, recipes):
    with pytest.raises(RecipeError, match="begun with other settings"):
        finished_run.do(dataclasses.replace(recipes["distil"], steps=5))


def test_a_step_without_its_input_is_refused(data_folder, teacher_folder, recipes, tmp_path):
    with pytest.raises(DataError, match="holds no finished pairs step"):
        Run(tmp_path, data_folder, lambda: teacher_folder).do(recipes["inherit"])


def test_no_training_text_holds_test_text(finished_run):
    report = json.loads((finished_run.folder / "pairs" / "report.json").read_text())
    assert report["sources"]["ask"] == 60 and report["dropped_for_overlap"]["ask"] == 0


def test_training_lowers_the_loss(finished_run):
    losses = [float(loss) for _, loss in logged(finished_run.folder / "distil")]
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])


class Stop(Exception):
    pass


def logged(folder):
    """(step, loss) of each line of a step's log."""
    return [line.split(",")[:2] for line in (folder / "loss.csv").read_text().splitlines()[1:]]


def test_a_killed_and_continued_run_equals_an_undisturbed_one(tmp_path):
    def run(folder, stop_at=None):
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 4)

        def forward(step):
            if step == stop_at:
                raise Stop
            inputs = torch.from_numpy(np.random.default_rng(step).normal(size=(5, 3)).astype(np.float32))
            return StepResult(module(inputs).square().mean(), 5)

        groups, matrices = [{"params": [module.bias], "lr": 0.1}], [{"params": [module.weight], "lr": 0.1}]
        train(module, groups, forward, Schedule(10, 2, 3), folder, matrices=matrices)
        return module.weight.detach(), logged(folder)

    weight, losses = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", stop_at=8)
    continued, again = run(tmp_path / "cut")
    assert torch.equal(weight, continued)
    assert losses == again and len(losses) == 10


@pytest.mark.parametrize(("module", "step", "call"), [(distillation, "distil", 10), (term_head, "terms", 8)])
def test_a_continued_step_equals_the_finished_one(
    data_folder, teacher_folder, recipes, finished_run, tmp_path, monkeypatch, module, step, call
):
    run = Run(tmp_path, data_folder, lambda: teacher_folder)
    for name in recipes:
        if name == step:
            break
        (tmp_path / name).symlink_to(finished_run.folder / name)
    calls = 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == call:
            raise Stop
        return hidden_states(*arguments)

    monkeypatch.setattr(module, "hidden_states", interrupted)
    with pytest.raises(Stop):
        run.do(recipes[step])
    assert run.do(recipes[step])
    expected, found = (
        torch.load(folder / step / CHECKPOINT, weights_only=True)["module"]
        for folder in (finished_run.folder, tmp_path)
    )
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


@torch.no_grad()
def test_packed_vectors_equal_those_of_each_text_alone(finished_run):
    model = finished_run._model("distil")

    def vectors(texts):
        return text_means(hidden_states(model, texts), texts)

    together = vectors(PackedTexts.of(ROWS))
    alone = torch.cat([vectors(PackedTexts.of([row])) for row in ROWS])
    assert (together - alone).abs().max() < 1e-6


def test_the_exported_folder_is_an_encoder_that_gives_the_trained_vectors(finished_run, tmp_path):
    assert finished_run.do(ExportRecipe(folder=str(tmp_path / "model")), "export")
    encoder = Encoder.load(tmp_path / "model", dtype="float32")
    assert encoder.spec.dimensions == (16,) and encoder.max_tokens == 64
    texts = ["The river flows", "bread"]
    packed = PackedTexts.of([np.asarray(row) for row in finished_run._tokenizer()(texts)["input_ids"]])
    with torch.no_grad():
        means = text_means(hidden_states(finished_run._model("distil"), packed), packed)
        expected = torch.nn.functional.normalize(means @ finished_run._axes().T).numpy()
    np.testing.assert_allclose(encoder.encode(texts).dense, expected, atol=3e-3)
