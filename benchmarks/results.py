"""What each step from a decoder to an encoder is worth, from one small pretrained decoder: `make results`.

    python benchmarks/results.py [--run DIR] [--scale small|gpu] [--report]

Trains every recipe of recipes/results (each resumes where it stopped, so the command may be killed and started again),
scores every arm on development collections cut from the training pairs, then on the test collections, and writes
docs/results.md with one table and one plot after each new number. Nothing is chosen by a test collection.
`--scale gpu` is the same with a bigger model on more data, for an accelerator; `--report` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import quality
import results_arms
import results_data
from results_report import write_report

from decant.embedder.training.recipe import NamedRecipe, read_recipes
from decant.embedder.training.run import Progress
from decant.embedder.training.steps import Run
from decant.embedder.training.training_recipe import TrainRecipe
from decant.index.beir import load_collection

RECIPES = Path(__file__).parent.parent / "recipes" / "results"
DATA = Path(os.environ.get("DECANT_DATA", "../shared/data"))
PAGE = Path(__file__).parent.parent / "docs" / "results.md"

# Changes to the pretrainings, and to every training behind them.
SCALES: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {
    "small": ((), ()),
    "gpu": (
        (
            "steps=4000",
            "objectives.0.batch_tokens=65536",
            "objectives.0.max_tokens=256",
            "decoder.config.hidden_size=512",
            "decoder.config.num_hidden_layers=8",
            "decoder.config.num_attention_heads=8",
            "decoder.config.num_key_value_heads=8",
            "decoder.config.intermediate_size=1408",
            "learning_rate=0.001",
        ),
        ("steps=1000", "learning_rate=0.0003"),
    ),
}

log = logging.getLogger("results")


def recipes(scale: str) -> list[NamedRecipe]:
    """Every recipe in its order, with the changes of a scale."""
    pretraining, later = SCALES[scale]
    plain = read_recipes([RECIPES])
    files = sorted(RECIPES.glob("*.yaml"))
    changed: list[NamedRecipe] = []
    for one, file in zip(plain, files, strict=True):
        changes: Sequence[str] = ()
        if isinstance(one.recipe, TrainRecipe):
            changes = pretraining if one.recipe.decoder else later
        changed.append(NamedRecipe(read_recipes([file], changes)[0].recipe, one.folder))
    return changed


def main() -> int:
    """Train, score and report whatever is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=None, help="default: runs/results, runs/results-<scale> for others")
    parser.add_argument("--scale", choices=SCALES, default="small")
    parser.add_argument("--report", action="store_true", help="write the page from the scores there are")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    run = options.run or Path("runs") / ("results" if options.scale == "small" else f"results-{options.scale}")
    if not options.report:
        _train_and_score(run, options.scale)
    write_report(run, PAGE, results_arms.ARMS)
    return 0


def _train_and_score(run: Path, scale: str) -> None:
    steps = Run(run, DATA, report=_Reporter())
    development = sorted((run / "data" / "dev").glob("*"))
    for one in recipes(scale):
        if one.folder == "32-hard-negatives":
            results_data.mine_negatives(run, run / "30-supervised" / "model")
        if one.folder == "34-rare":
            results_data.add_examples(run)
        steps.do(one.recipe, one.folder)
        if one.folder == "pairs":
            results_data.prepare(run)
            development = sorted((run / "data" / "dev").glob("*"))
        for arm in results_arms.ARMS:
            if arm.recipe == one.folder:
                _score(run, arm, development, "dev")
    tests = sorted(path for path in (DATA / "beir").iterdir() if path.is_dir())
    for arm in results_arms.ARMS:
        _score(run, arm, tests, "test")
    for folder in (*development, *tests):
        _score_bm25(run, folder, "dev" if folder in development else "test")


def _score(run: Path, arm: results_arms.Arm, collections: Sequence[Path], split: str) -> None:
    """Score an arm on what it has no score of yet, and write the page anew."""
    missing = [folder for folder in collections if not _file(run, arm.name, split, folder.name).exists()]
    if not missing:
        return
    began = time.perf_counter()
    texts = _calibration(run) if arm.calibrated else []
    encoder = results_arms.load(arm, run, texts)
    examples = results_data.Examples.of_run(run) if arm.examples else None
    for folder in missing:
        values = results_arms.measure(arm, encoder, load_collection(folder), examples)
        _keep(_file(run, arm.name, split, folder.name), values)
        log.info("%s %s %s: nDCG@10 %.4f", arm.name, split, folder.name, values["nDCG@10"])
    log.info("%s %s: %.0f s", arm.name, split, time.perf_counter() - began)
    write_report(run, PAGE, results_arms.ARMS)


def _score_bm25(run: Path, folder: Path, split: str) -> None:
    file = _file(run, "bm25", split, folder.name)
    if not file.exists():
        _keep(file, quality.bm25(results_arms.shortened(load_collection(folder))))
        write_report(run, PAGE, results_arms.ARMS)


def _calibration(run: Path) -> list[str]:
    with (run / "data" / "text.jsonl").open(encoding="utf-8") as file:
        return [json.loads(line)["text"] for _, line in zip(range(results_arms.CALIBRATION_TEXTS), file, strict=False)]


def _file(run: Path, name: str, split: str, collection: str) -> Path:
    return run / "scores" / split / collection / f"{name}.json"


def _keep(file: Path, values: Mapping[str, float]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_suffix(".tmp")
    unfinished.write_text(json.dumps(dict(values), indent=2) + "\n")
    unfinished.replace(file)


class _Reporter:
    """Logs where a training is, every half minute."""

    def __init__(self) -> None:
        self._last = 0.0

    def __call__(self, now: Progress) -> None:
        if time.monotonic() - self._last > 30 or now.step == now.steps:
            self._last = time.monotonic()
            log.info("step %d/%d loss %.3f, %.0f tokens/s", now.step, now.steps, now.loss, now.tokens_per_second)


if __name__ == "__main__":
    sys.exit(main())
