"""`decant train`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .loading import waiting
from .options import Debug, Device
from .output import say
from .problem import require_paths
from .progress import progress_bar
from .quiet import quiet_transformers

if TYPE_CHECKING:
    from ...embedder.training.run import Progress

NAME = "train"
SHORT_HELP = "Train an encoder as a recipe says; an interrupted run continues by itself."


def command(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="YAML files, or folders whose *.yaml run in order.")
    ],
    run: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Where results go. Default: runs/NAME of the recipe.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a key of every recipe, such as steps=50; repeatable."),
    ] = None,
    device: Device = None,
    debug: Debug = False,
) -> None:
    """Train an encoder as a recipe says; an interrupted run continues by itself.

    The run folder gets checkpoints, loss.csv, loss.png (drawn anew at each checkpoint) and, at the end, the encoder in
    model/. Run the same command again after an interruption: it goes on from the last checkpoint and gives what an
    undisturbed run gives. Recipes, data and names of prompts are checked before the first step.
    """
    require_paths(recipes)
    folder = run or Path("runs") / _name(recipes[0])
    if len(recipes) == 1 and _answers(recipes[0], folder, changes or [], device, debug=debug):
        return
    with waiting("reading"):
        # Recipes are checked before torch is loaded, which takes seconds.
        from ...embedder.training.recipe import read_recipes

        read = read_recipes(recipes, changes or [])
        from ...embedder.training.steps import Run, do_recipes

        if not debug:
            quiet_transformers()
    log = logging.getLogger("decant.embedder.training")
    handler = _Lines()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        with progress_bar("training") as advance:

            def report(now: Progress) -> None:
                advance(now.step, now.steps, f"loss {now.loss:.4f}, {now.tokens_per_second:,.0f} tokens/s")

            do_recipes(read, Run(folder, device=device, report=report))
    finally:
        log.removeHandler(handler)
    _say_where(folder)


def _answers(path: Path, folder: Path, changes: list[str], device: str | None, *, debug: bool) -> bool:
    """Run the recipe if it trains what answers, a reader, a writer or cross-attention blocks; whether it does."""
    from ...rag.training import rag_recipe, run_rag_recipe

    if path.is_dir() or (recipe := rag_recipe(path, changes)) is None:
        return False
    from ...embedder.training.sources import data_root

    if not debug:
        quiet_transformers()
    run_rag_recipe(recipe, data_root(), folder, device)
    _say_where(folder)
    return True


def _say_where(folder: Path) -> None:
    """Name the folder that other commands take; steps in several folders have none in common."""
    made = next((folder / name for name in ("model", "adapter") if (folder / name).is_dir()), None)
    say(f"results are in {folder}" if made is None else f"the model is in {made}", style="green")


class _Lines(logging.Handler):
    """Shows what the training logs as lines on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def _name(path: Path) -> str:
    whole = path.resolve()
    return whole.name if whole.is_dir() else whole.stem
