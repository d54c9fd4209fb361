"""The steps of a recipe on a device that only says that it is another one than the CPU."""

import csv
import json
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from decant.embedder import ModelError
from decant.embedder.training.steps import Run

sys.path.insert(0, str(Path(__file__).parents[1]))

from pretended import NAME, Pretended

WEIGHTS = {"inherit": "model/model.safetensors", "distil": "model/model.safetensors", "terms": "head.safetensors"}


@pytest.fixture(params=WEIGHTS)
def step(request, finished_run, tmp_path):
    """A step, in a run folder where those before it are finished."""
    for name in ("tokenizer", "pairs", *WEIGHTS):
        if name == request.param:
            return name
        (tmp_path / name).symlink_to(finished_run.folder / name)


def logged(folder):
    """Loss and tokens of each step of a training."""
    if not (folder / "loss.csv").exists():
        return [], []
    with (folder / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [float(row["loss"]) for row in rows], [int(row["tokens"]) for row in rows]


def test_a_step_computes_where_it_is_told_to(data_folder, teacher_folder, recipes, finished_run, tmp_path, step):
    with Pretended() as pretended:
        assert Run(tmp_path, data_folder, lambda: teacher_folder, NAME).do(recipes[step])
    assert pretended.products == {NAME}
    found, expected = tmp_path / step, finished_run.folder / step
    # The same batches and draws; the CPU's own autocast does not reach the device, so roundings differ.
    (losses, tokens), (wanted, as_many) = logged(found), logged(expected)
    assert tokens == as_many and losses == pytest.approx(wanted, rel=0.05)
    scores = (json.loads((folder / "dev.json").read_text()) for folder in (found, expected))
    assert next(scores) == pytest.approx(next(scores), abs=0.1)
    weights = (load_file(folder / WEIGHTS[step]) for folder in (found, expected))
    assert {k: v.shape for k, v in next(weights).items()} == {k: v.shape for k, v in next(weights).items()}


def test_a_device_that_is_not_there_is_refused(data_folder, teacher_folder, recipes, tmp_path, step):
    with pytest.raises(ModelError, match="device cuda:99 cannot be used"):
        Run(tmp_path, data_folder, lambda: teacher_folder, "cuda:99").do(recipes[step])
