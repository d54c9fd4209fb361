"""The distil step on a machine with an accelerator, ten minutes at a time and no network.

    python recipes/decant-mini/on_device.py pack RUN OUT [--mib 56]
    python recipes/decant-mini/on_device.py train OUT --minutes 9 [--steps N]

`pack` takes what the first three steps left in RUN and writes three folders into OUT that can be carried one after the
other: run/pairs (token ids, as many pairs as fit), run/inherit and teacher (both in half precision). `train` measures
how long a step takes, fits the number of steps into the time, and leaves OUT/run/distil with checkpoints, loss.csv and
the model. Started again, it continues.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import logging
import shutil
import statistics
import sys
import time
from pathlib import Path

import numpy as np
from transformers import BertModel, LlamaForCausalLM

from decant.embedder.training.pairs import PairSet
from decant.embedder.training.ragged import Ragged
from decant.embedder.training.recipe import DistilRecipe, read_recipe
from decant.embedder.training.run import LOG, Progress
from decant.embedder.training.steps import Run
from decant.embedder.training.teacher import minilm_folder

RECIPE = Path(__file__).parent / "4-distil.yaml"
PROBE_STEPS = 12
DEFLATED = 0.72
"""What deflating leaves of the token ids, as measured on these pairs."""

log = logging.getLogger("on_device")


def pack(run: Path, out: Path, mib: float) -> None:
    """Write OUT/run and OUT/teacher."""
    pairs = PairSet.load(run / "pairs")
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~pairs.dev))
    sizes = np.diff(pairs.queries.offsets)[rows] + np.diff(pairs.passages.offsets)[rows]
    rows = np.concatenate([rows[np.cumsum(2 * sizes * DEFLATED) < mib * 2**20 * 0.9], np.flatnonzero(pairs.dev)])
    packed = out / "run"
    folder = packed / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    for name, side in (("queries", pairs.queries), ("passages", pairs.passages)):
        chosen = Ragged.of([side[int(row)] for row in rows])
        np.savez_compressed(folder / f"{name}.npz", values=chosen.values, offsets=chosen.offsets)
    chosen_rows = {name: getattr(pairs, name)[rows] for name in ("sources", "groups", "dev")}
    np.savez_compressed(folder / "pairs.npz", **chosen_rows)
    shutil.copy(run / "pairs" / "report.json", folder)
    shutil.copytree(run / "tokenizer", packed / "tokenizer", dirs_exist_ok=True)
    (packed / "inherit").mkdir(exist_ok=True)
    shutil.copy(run / "inherit" / "axes.npy", packed / "inherit")
    LlamaForCausalLM.from_pretrained(run / "inherit" / "model").half().save_pretrained(packed / "inherit" / "model")
    for name in ("pairs", "tokenizer", "inherit"):
        shutil.copy(run / name / "finished.json", packed / name)
    shutil.copytree(minilm_folder(), out / "teacher", dirs_exist_ok=True)
    BertModel.from_pretrained(minilm_folder()).half().save_pretrained(out / "teacher")
    log.info("%d of %d pairs", len(rows), len(pairs))


def train(packed: Path, minutes: float, steps: int | None) -> None:
    """Do the distil step in the time."""
    recipe = read_recipe(RECIPE)
    assert isinstance(recipe, DistilRecipe)
    run = Run(packed / "run", teacher=lambda: packed / "teacher", report=_report)
    plan = packed / "run" / "plan.json"
    if not plan.exists():
        plan.write_text(json.dumps(steps or _steps_within(60 * minutes, packed, recipe)))
    count = json.loads(plan.read_text())
    log.info("%d steps", count)
    run.do(dataclasses.replace(recipe, steps=count))


def _steps_within(seconds: float, packed: Path, recipe: DistilRecipe) -> int:
    began = time.monotonic()
    probe = packed / "probe"
    shutil.rmtree(probe, ignore_errors=True)
    shutil.copytree(packed / "run", probe)
    Run(probe, teacher=lambda: packed / "teacher").do(dataclasses.replace(recipe, steps=PROBE_STEPS, warmup_steps=1))
    with (probe / "distil" / LOG).open(newline="") as file:
        times = [float(row["seconds"]) for row in csv.DictReader(file)]
    shutil.rmtree(probe)
    left = seconds - (time.monotonic() - began)
    return int(left / statistics.median(times[PROBE_STEPS // 2 :]))


def _report(now: Progress) -> None:
    if now.step % 50 == 0 or now.step == now.steps:
        log.info("step %d/%d loss %.3f, %.0f tokens/s", now.step, now.steps, now.loss, now.tokens_per_second)


def main() -> int:
    """Pack here, or train there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing = commands.add_parser("pack")
    packing.add_argument("run", type=Path)
    packing.add_argument("out", type=Path)
    packing.add_argument("--mib", type=float, default=56)
    training = commands.add_parser("train")
    training.add_argument("packed", type=Path)
    training.add_argument("--minutes", type=float, default=9)
    training.add_argument("--steps", type=int)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.command == "pack":
        pack(options.run, options.out, options.mib)
    else:
        train(options.packed.resolve(), options.minutes, options.steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())
