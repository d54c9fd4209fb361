from pathlib import Path

import pytest

from decant.embedder.training.__main__ import main, recipe_files
from decant.embedder.training.recipe import STEPS, RecipeError, TokenTableRecipe, read_recipe

ROOT = Path(__file__).parents[3]


def recipe(tmp_path, text):
    path = tmp_path / "one.yaml"
    path.write_text(text)
    return path


def test_shipped_recipes_are_valid_and_in_step_order():
    files = recipe_files([ROOT / "recipes" / "decant-mini"])
    assert [read_recipe(file).step for file in files] == list(STEPS)


def test_values_replace_defaults(tmp_path):
    found = read_recipe(recipe(tmp_path, "step: token-table\nsteps: 7\nlearning_rate: 1\n"))
    assert found == TokenTableRecipe(steps=7, learning_rate=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("step: token-table\nlearning_rte: 0.1\n", "no key 'learning_rte'"),
        ("step: token-tabel\n", "step 'token-tabel' is unknown"),
        ("steps: 3\n", "step None is unknown"),
        ("step: lm\nsteps: many\n", "steps must be int, not 'many'"),
        ("step: lm\nsteps: true\n", "steps must be int, not True"),
        ("step: contrastive\ndims: [384, x]\n", r"dims must be list\[int\]"),
        ("step: pairs\nsources: [a]\n", r"sources must be dict\[str, int\]"),
        ("- step\n", "a recipe is a mapping"),
        ("step: [\n", "cannot be read as YAML"),
    ],
)
def test_a_wrong_recipe_is_one_line_that_names_the_fault(tmp_path, text, message):
    with pytest.raises(RecipeError, match=message) as error:
        read_recipe(recipe(tmp_path, text))
    assert "\n" not in str(error.value)


def test_command_line_reports_a_wrong_recipe_before_anything_runs(tmp_path, capsys):
    status = main([str(recipe(tmp_path, "step: lm\nstep_count: 1\n")), "--run", str(tmp_path / "run")])
    assert status == 2
    assert "no key 'step_count'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
