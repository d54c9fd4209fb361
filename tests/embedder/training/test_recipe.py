from pathlib import Path

import pytest
from typer.testing import CliRunner

from decant.embedder.training.recipe import STEPS, DistilRecipe, read_recipe, read_recipes
from decant.embedder.training.settings import RecipeError
from decant.service.cli.app import app

ROOT = Path(__file__).parents[3]


def recipe(tmp_path, text):
    path = tmp_path / "one.yaml"
    path.write_text(text)
    return path


def test_shipped_recipes_are_valid_and_in_step_order():
    found = read_recipes([ROOT / "recipes" / "decant-mini"])
    assert [one.folder for one in found] == [step for step in STEPS if step != "train"]


def test_values_replace_defaults(tmp_path):
    found = read_recipe(recipe(tmp_path, "step: distil\nsteps: 7\nlearning_rate: 1\n"))
    assert found == DistilRecipe(steps=7, learning_rate=1)


TEXTS = "data: {text: {kind: texts, files: [a.jsonl]}}\n"
PAIRS = "model: base\ndata: {pairs: {files: [a.jsonl]}}\n"
MNTP = "model: base\nobjectives: [{kind: mntp}]\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: distil\nlearning_rte: 0.1\n", "learning_rte is unknown; known keys are seed"),
        ("step: distill\n", "step 'distill' is unknown"),
        ("step: distil\nsteps: many\n", "steps must be int, not 'many'"),
        ("step: distil\nsteps: true\n", "steps must be int, not True"),
        ("step: distil\ndims: [384, x]\n", r"dims\[1\] must be int, not 'x'"),
        ("step: distil\npassage_tokens: {128: much}\n", "passage_tokens.128 must be float"),
        ("step: pairs\nsources: [a]\n", "sources must be dict"),
        ("- step\n", "a recipe is a mapping"),
        ("step: [\n", "cannot be read as YAML"),
        ("steps: 3\n", "model: name one, or describe a `decoder`"),
        ("model: base\n", "objectives: there is none; choose from clm, mntp"),
        (MNTP, r"objectives\[0\]: mntp takes texts, and no data set holds them"),
        (TEXTS + "model: base\nobjectives: [{kind: mtnp}]\n", r"objectives\[0\].kind 'mtnp' is unknown; choose one of"),
        (TEXTS + "model: base\nobjectives: [{kind: mntp, mask_shar: 1}]\n", r"objectives\[0\].mask_shar is unknown"),
        (TEXTS + "model: base\nobjectives: [{kind: mntp, mask_token: x}]\n", "must be one of blank, mask, eos, add"),
        (TEXTS + "model: base\nobjectives: [{kind: distil, data: [text]}]\n", r"objectives\[0\].teacher is missing"),
        (
            TEXTS + "model: base\nobjectives: [{kind: splade, data: [text]}]\n",
            "splade takes pairs, and 'text' holds texts",
        ),
        (TEXTS + "model: base\nobjectives: [{kind: mntp, data: [txt]}]\n", "'txt' is not among the data sets text"),
        (TEXTS + MNTP + "lora: {rnk: 4}\n", "lora.rnk is unknown"),
        (TEXTS + MNTP + "dtype: float16\n", "dtype must be one of float32, bfloat16, not 'float16'"),
        (TEXTS + MNTP + "data: {text: {files: [a], kind: txt}}\n", "data.text.kind must be one of pairs, texts"),
        (TEXTS + MNTP + "steps: 0\n", "steps must be at least 1"),
        (TEXTS + MNTP + "seed: -1\n", "seed must be at least 0, not -1"),
        (TEXTS + MNTP + "learning_rate: 0\n", "learning_rate must be above 0, not 0"),
        (TEXTS + MNTP + "lora: {rank: 0}\n", "lora.rank must be at least 1, not 0"),
        (TEXTS + MNTP + "lora: {dropout: 2}\n", "lora.dropout must be at most 0.99, not 2"),
        (TEXTS + MNTP + "dims: [0]\n", r"dims\[0\] must be at least 1, not 0"),
        (TEXTS + "model: base\nobjectives: [{kind: mntp, mask_share: 0}]\n", "mask_share must be above 0, not 0"),
        (TEXTS + "model: base\nobjectives: [{kind: infill, max_tokens: 2}]\n", "max_tokens must be at least 8, not 2"),
        (TEXTS + "model: base\nobjectives: [{kind: simcse, batch_texts: 1}]\n", "batch_texts must be at least 2"),
        (PAIRS + "objectives: [{kind: contrastive, batch_pairs: 0}]\n", "batch_pairs must be at least 1, not 0"),
        (PAIRS + "objectives: [{kind: contrastive, negatives: -1}]\n", "negatives must be at least 0, not -1"),
        (PAIRS + "objectives: [{kind: splade, temperature: 0}]\n", r"objectives\[0\].temperature must be above 0"),
        (PAIRS + "objectives: [{kind: contrastive, weight: -1}]\n", "weight must be above 0, not -1"),
        (PAIRS + "objectives: [{kind: contrastive, turns: 0}]\n", "turns must be at least 1, not 0"),
        ("data: {p: {files: [a], weight: 0}}\n" + MNTP, "data.p.weight must be above 0, not 0"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_fault(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as error:
        read_recipe(recipe(tmp_path, text))
    assert "\n" not in str(error.value)


def test_changes_reach_into_the_recipe(tmp_path):
    file = recipe(tmp_path, TEXTS + MNTP)
    changes = ["steps=7", "lora.rank=4", "objectives.0.mask_token=mask", "encoder={pooling: last}"]
    found = read_recipe(file, changes)
    assert (found.steps, found.lora.rank, found.objectives[0].mask_token) == (7, 4, "mask")
    assert found.encoder == {"pooling": "last"}
    for wrong, message in (
        ("steps", "write KEY=VALUE"),
        ("stps=1", "stps is unknown"),
        ("objectives.3.weight=1", "list"),
    ):
        with pytest.raises(RecipeError, match=message):
            read_recipe(file, [wrong])


def test_a_training_s_folder_is_named_like_its_file_unless_it_is_alone(tmp_path):
    file = recipe(tmp_path, TEXTS + MNTP)
    other = file.with_name("two.yaml")
    other.write_text(file.read_text())
    assert [one.folder for one in read_recipes([file])] == ["."]
    assert [one.folder for one in read_recipes([tmp_path])] == ["one", "two"]


def test_the_command_line_reports_a_wrong_recipe_before_anything_runs(tmp_path):
    file = recipe(tmp_path, "step: distil\nstep_count: 1\n")
    result = CliRunner().invoke(app, ["train", str(file), "--run", str(tmp_path / "run")], prog_name="decant")
    assert result.exit_code == 1
    assert "step_count is unknown" in result.stderr.replace("\n", " ")
    assert not (tmp_path / "run").exists()


# Those of the reader over cached states (xc-*) are read and tested by rag.
SHIPPED = sorted(file for file in (ROOT / "recipes").rglob("*.yaml") if not file.name.startswith("xc-"))


@pytest.mark.parametrize("file", SHIPPED, ids=lambda file: file.stem)
def test_every_shipped_recipe_is_valid(file):
    read_recipe(file)
