"""`python -m decant.embedder.training RECIPE ... [--run FOLDER]`: runs recipe files, or all of a recipe folder."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..errors import DecantError
from .recipe import Recipe, RecipeError, read_recipe
from .sources import data_root
from .steps import Run


def main(arguments: list[str] | None = None) -> int:
    """Runs the steps; returns the exit status (2 for an error that the user can mend)."""
    parser = argparse.ArgumentParser(prog="python -m decant.embedder.training", description=__doc__)
    parser.add_argument("recipe", nargs="+", type=Path, help="recipe files, or a folder whose *.yaml are the steps")
    parser.add_argument("--run", type=Path, help="where results go (default: runs/<name of the recipe folder>)")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        files = recipe_files(options.recipe)
        recipes: list[Recipe] = [read_recipe(file) for file in files]
        run = Run(data_root(), options.run or Path("runs") / files[0].resolve().parent.name)
        for recipe in recipes:
            run.do(recipe)
    except DecantError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def recipe_files(paths: list[Path]) -> list[Path]:
    """The files in the order given; a folder stands for its *.yaml in the order of their names.

    Raises:
        RecipeError: a folder holds no recipe.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found:
            raise RecipeError(f"{path} holds no *.yaml recipe")
        files += found
    return files


if __name__ == "__main__":
    sys.exit(main())
