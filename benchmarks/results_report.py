"""The page of the results: one table, one plot, what was trained at what cost."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from math import sqrt
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
chance: every arm is one run with one seed. In a random order of its about thousand passages a development collection
would score about 0.005.
"""
COMPARISONS = (
    ("(a) bidirectional and mean, for causal and last token; untrained", "a1", "a3"),
    ("(a) bidirectional, for causal; both mean, untrained", "a2", "a3"),
    ("(b) MNTP", "a3", "b"),
    ("(c) SimCSE on top", "b", "c"),
    ("(d) supervised contrast on top", "c", "d"),
    ("(d) MNTP and SimCSE before supervised contrast", "d0", "d"),
    ("(e) latent attention, for mean", "d", "e"),
    ("(f) mined hard negatives", "d", "f"),
    ("(g) echo, for causal and mean; untrained", "a2", "g"),
    ("(h) SPLADE, for BM25", "bm25", "h"),
    ("(i) router vectors, for hidden states; untrained", "i1", "i2"),
    ("(i) the sum of both, for hidden states; untrained", "i1", "i3"),
    ("(i) router vectors, for hidden states; supervised", "i4", "i5"),
    ("(i) the sum of both, for hidden states; supervised", "i4", "i6"),
    ("(j) examples for a model trained without them", "d", "j1"),
    ("(j) trained and asked with examples", "d", "j2"),
    ("(k) MAGNET, for MNTP", "b", "k1"),
    ("(k) AntLM, for MNTP", "b", "k2"),
)
"""What is asked of the arms: what changes, from which, to which."""


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
    means = {name: mean for _, name, _ in rows if (mean := _mean(run / "scores" / "dev", name)) is not None}
    asked = sum(len(file.read_text().splitlines()) for file in (run / "data" / "dev").glob("*/queries.jsonl"))
    page.write_text("\n".join([*lines, "", *answers(means, asked), "", *_costs(run), ""]), encoding="utf-8")


def answers(means: Mapping[str, float], queries: int) -> list[str]:
    """Say of each comparison whether its difference is more than the choice of queries explains.

    Args:
        means: nDCG@10 over the development queries, by arm.
        queries: how many there are.
    """
    lines = [
        "## What it answers",
        "",
        f"On the {queries:,} development queries. An nDCG lies between 0 and 1, so a mean m of n of them has a "
        "standard error of at most sqrt(m (1 - m) / n); a difference within two standard errors of two such means is "
        "called chance here. What another seed would change comes on top and was not measured.",
        "",
        "| question | from | to | difference | chance up to | answer |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for question, before, after in COMPARISONS:
        if before in means and after in means:
            old, new = means[before], means[after]
            chance = 2 * sqrt((old * (1 - old) + new * (1 - new)) / max(1, queries))
            verdict = "not shown" if abs(new - old) <= chance else "better" if new > old else "worse"
            lines.append(f"| {question} | {old:.3f} | {new:.3f} | {new - old:+.3f} | {chance:.3f} | {verdict} |")
    return lines


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
