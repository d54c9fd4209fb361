import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

sys.path.insert(0, str(Path(__file__).parent))
from models import make_base, write_data

from decant.embedder import Encoder
from decant.service.cli.app import app

RECIPE = """
model: $BASE
data: {pairs: {files: [$DATA/pairs.jsonl]}}
objectives: [{kind: contrastive, batch_pairs: 6, negatives: 1}]
steps: 4
checkpoint_steps: 2
warmup_steps: 1
"""


def decant(*args, **environment):
    env = {key: str(value) for key, value in environment.items()}
    return CliRunner().invoke(app, [str(arg) for arg in args], prog_name="decant", env=env)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    base, data = make_base(folder), write_data(folder)
    (folder / "one.yaml").write_text(RECIPE)
    result = decant("train", folder / "one.yaml", "--run", folder / "run", "--device", "cpu", BASE=base, DATA=data)
    assert result.exit_code == 0, result.stderr
    return folder


def test_train_leaves_an_encoder_and_says_where(trained):
    assert Encoder.load(trained / "run" / "model").dimension == 32
    again = decant("train", trained / "one.yaml", "--run", trained / "run", BASE=trained / "base", DATA=trained)
    assert again.exit_code == 0 and "finished before" in again.stderr


def test_train_refuses_a_changed_recipe_but_not_one_that_never_began(trained, tmp_path):
    places = {"BASE": trained / "base", "DATA": trained}
    changed = decant("train", trained / "one.yaml", "--run", trained / "run", "--set", "steps=9", **places)
    assert changed.exit_code == 1 and "begun with other settings" in changed.stderr.replace("\n", " ")
    wrong = decant("train", trained / "one.yaml", "--run", tmp_path, "--set", "dims=[99]", **places)
    assert wrong.exit_code == 1 and "dims: 99" in wrong.stderr
    mended = decant("train", trained / "one.yaml", "--run", tmp_path, "--set", "dims=[16]", **places)
    assert mended.exit_code == 0, mended.stderr
    assert Encoder.load(tmp_path / "model").spec.dimensions == (16,)


def test_recipes_in_a_row_build_on_each_other(trained, tmp_path):
    places = {"BASE": trained / "base", "DATA": trained}
    (tmp_path / "1-first.yaml").write_text(RECIPE)
    (tmp_path / "2-second.yaml").write_text(RECIPE.replace("$BASE", "$RUN/1-first/model"))
    result = decant("train", tmp_path, "--run", tmp_path / "run", "--set", "steps=1", **places)
    assert result.exit_code == 0, result.stderr
    assert (tmp_path / "run" / "2-second" / "model" / "decant.json").exists()


def test_mine_adds_negatives_and_training_reads_them(trained, tmp_path):
    out = tmp_path / "hard.jsonl"
    result = decant("mine", trained / "pairs.jsonl", out, "--model", trained / "run" / "model", "--negatives", "2")
    assert result.exit_code == 0, result.stderr
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == 40 and "pairs have none" in result.stderr
    positives = {record["positive"] for record in records}
    for record in records:
        assert set(record["negatives"]) <= positives - {record["positive"]}
        assert all(score < 0.95 * record["positive_score"] + 1e-3 for score in record["negative_scores"])
    again = decant("mine", trained / "pairs.jsonl", out)
    assert again.exit_code == 1 and "choose a new file" in again.stderr.replace("\n", " ")


def test_recipe_advice_is_readable_by_people_and_programs():
    shown = decant("recipe", "--flops", "1e17", "--data", "2e8")
    assert shown.stdout.startswith("LoRA of a decoder") and "Not verified:" in shown.stdout
    found = json.loads(decant("recipe", "--flops", "1e15", "--data", "2e8", "--json").stdout)
    assert found["method"] == "full" and found["unverified"]
    assert decant("recipe", "--flops", "0", "--data", "1").exit_code == 1
