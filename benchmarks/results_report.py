"""The page of the results: one table, one plot, what was trained at what cost."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from results_arms import MAX_TOKENS, QUERIES, Arm

MEASURE = "nDCG@10"
INTRODUCTION = f"""# What each step is worth

Written by `make results`, from one small decoder that the same command pretrains; do not edit by hand. nDCG@10 by exact
search. Documents are cut to {MAX_TOKENS} tokens in every arm but BM25, and only the first {QUERIES:,} queries of a
collection are asked. "Development" is the mean over held-out pairs of the three training sources; the test collections
were scored for this table only. A dash is an arm that has not been run.

The decoder is tiny and saw little text, so differences between arms say more than their heights, and small ones may be
chance: every arm is one run with one seed.
"""


def write_report(run: Path, page: Path, arms: Sequence[Arm]) -> None:
    """Write the page and its plot from the scores in the run folder."""
    tests = sorted(path.name for path in (run / "scores" / "test").glob("*"))
    rows = [("BM25 (bm25s)", "bm25", ""), *((arm.label, arm.name, arm.name) for arm in arms)]
    heads = ["", "arm", "development", *tests]
    lines = [INTRODUCTION, f"| {' | '.join(heads)} |", f"|---|---|---:|{'---:|' * len(tests)}"]
    bars: list[tuple[str, float]] = []
    for label, name, letter in rows:
        development = _mean(run / "scores" / "dev", name)
        if development is not None:
            bars.append((f"{letter} {label}".strip(), development))
        values = [development, *(_value(run / "scores" / "test" / test / f"{name}.json") for test in tests)]
        lines.append(f"| {letter} | {label} | {' | '.join(map(_cell, values))} |")
    missing = [name for _, name, _ in rows if _mean(run / "scores" / "dev", name) is None]
    if missing:
        lines += [
            "",
            f"**Not finished**: {', '.join(missing)} had no score when this page was written; `make results` goes on.",
        ]
    if bars:
        _plot(bars, page.with_name("results.png"))
        lines += ["", "![Development nDCG@10 of every arm](results.png)"]
    page.write_text("\n".join([*lines, "", *_costs(run), ""]), encoding="utf-8")


def _costs(run: Path) -> list[str]:
    lines = [
        "## Cost",
        "",
        "Tokens include both sides of pairs; minutes are the sum of the steps' wall-clock times on a machine that had "
        "other work, with one thread.",
        "",
        "| training | steps | tokens | minutes | first loss | last loss |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for log in sorted(run.glob("*/loss.csv")):
        with log.open(newline="") as file:
            steps = list(csv.DictReader(file))
        if not steps:
            continue
        tokens, seconds = sum(int(s["tokens"]) for s in steps), sum(float(s["seconds"]) for s in steps)
        name = log.parent.name if (log.parent / "finished.json").exists() else f"{log.parent.name} (not finished)"
        first, last = steps[0]["loss"], sum(float(s["loss"]) for s in steps[-10:]) / len(steps[-10:])
        lines.append(
            f"| {name} | {len(steps)} | {tokens / 1e6:.2f} M | {seconds / 60:.1f} | {float(first):.3f} | {last:.3f} |"
        )
    return lines


def _plot(bars: Sequence[tuple[str, float]], picture: Path) -> None:
    figure = Figure(figsize=(8, 0.32 * len(bars) + 1), layout="constrained")
    axes = figure.add_subplot(xlabel="nDCG@10, mean of the development collections")
    names = [name for name, _ in reversed(bars)]
    axes.barh(names, [value for _, value in reversed(bars)], color="C0")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(picture, dpi=100)


def _mean(folder: Path, name: str) -> float | None:
    values = [_value(one / f"{name}.json") for one in sorted(folder.glob("*"))]
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if values and len(known) == len(values) else None


def _value(file: Path) -> float | None:
    return json.loads(file.read_text())[MEASURE] if file.exists() else None


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
