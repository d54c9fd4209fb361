"""The measured part of docs/quality.md: tables out of what `quality.py` kept."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
DRAWS = 2000
NAMES = {"scifact": "SciFact", "squad-dev": "SQuAD dev", "cosqa-dev": "CoSQA dev"}

PerQuery = dict[str, NDArray[np.float64]]
"""One measure's value for each query, by collection."""


def tables(name: str, model: Path | None, peers: Mapping[str, Path], folders: Sequence[Path]) -> str:
    """All tables in Markdown; what was not measured is left out."""
    collections = [folder.name for folder in folders]
    rows = _contestants(name, model, peers, collections)
    parts = [_search(rows, collections), _differences(rows, name), _sts(name, model, peers)]
    if model:
        parts += [_narrow(model, collections), _health(model), _overlap(model)]
    return "\n\n".join(part for part in parts if part)


def put(page: Path, text: str, picture: Path | None) -> None:
    """Write the tables between the page's two marks, and the picture beside it."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    if picture and picture.exists():
        shutil.copyfile(picture, page.with_name("quality-health.png"))


def bootstrap(values: PerQuery, seed: int = 0) -> NDArray[np.float64]:
    """`DRAWS` means of as many queries drawn anew, averaged over the collections."""
    rng = np.random.default_rng(seed)
    means = [
        np.array([each[rng.integers(0, len(each), len(each))].mean() for _ in range(DRAWS)])
        for _, each in sorted(values.items())
    ]
    return np.mean(means, axis=0)


def _contestants(
    name: str, model: Path | None, peers: Mapping[str, Path], collections: Sequence[str]
) -> dict[str, dict[str, PerQuery]]:
    """Measures of every contestant and mode that has been searched in every collection."""
    rows: dict[str, dict[str, PerQuery]] = {}
    for label, folder in [*peers.items(), *([(name, model)] if model else [])]:
        kept = {one: _read(folder / "search" / f"{one}.json") for one in collections}
        if any(found is None for found in kept.values()):
            continue
        for mode in next(iter(kept.values())):
            shown = label if label == "BM25" else f"{label}: {mode}"
            rows[shown] = {
                measure: {one: np.array(list(kept[one][mode][measure].values())) for one in collections}
                for measure in ("nDCG@10", "R@100")
            }
    return rows


def _search(rows: Mapping[str, Mapping[str, PerQuery]], collections: Sequence[str]) -> str:
    heads = [f"{NAMES.get(one, one)} nDCG@10 | R@100" for one in collections]
    lines = [f"| | {' | '.join(heads)} | mean nDCG@10 |", f"|---|{'---:|' * (2 * len(heads) + 1)}"]
    for label, values in rows.items():
        cells: list[str] = []
        for one in collections:
            cells.append(_interval({one: values["nDCG@10"][one]}))
            cells.append(f"{values['R@100'][one].mean():.3f}")
        lines.append(f"| {label} | {' | '.join(cells)} | {_interval(values['nDCG@10'])} |")
    return "\n".join(lines) if rows else ""


def _differences(rows: Mapping[str, Mapping[str, PerQuery]], name: str) -> str:
    """What the model gains over its peers, query by query."""
    peers = [label for label in rows if label == "BM25" or label.startswith("all-MiniLM")]
    modes = [label for label in rows if label.startswith(f"{name}: ")]
    if not (peers and modes):
        return ""
    lines = [f"| mean nDCG@10, difference to | {' | '.join(peers)} |", f"|---|{'---:|' * len(peers)}"]
    for label in modes:
        cells: list[str] = []
        for peer in peers:
            own, other = rows[label]["nDCG@10"], rows[peer]["nDCG@10"]
            cells.append(_interval({one: own[one] - other[one] for one in own}, sign="+"))
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _interval(values: PerQuery, sign: str = "") -> str:
    mean = float(np.mean([each.mean() for each in values.values()]))
    low, high = np.percentile(bootstrap(values), [2.5, 97.5])
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _sts(name: str, model: Path | None, peers: Mapping[str, Path]) -> str:
    lines = ["| STS-B, Spearman | dev | test |", "|---|---:|---:|"]
    for label, folder in [*peers.items(), *([(name, model)] if model else [])]:
        if found := _read(folder / "sts.json"):
            cells = [f"{next(iter(found[split].values()))['float32']:.3f}" for split in ("dev", "test")]
            lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def _narrow(model: Path, collections: Sequence[str]) -> str:
    kept = [found for one in collections if (found := _read(model / "narrow" / f"{one}.json"))]
    sts = _read(model / "sts.json")
    if not kept or not sts:
        return ""
    forms = list(next(iter(kept[0].values())))
    lines = [
        "Mean nDCG@10 of exact dense search, and Spearman on STS-B test, by width and format; bytes are of one vector.",
        "",
        f"| dimensions | {' | '.join(forms)} | STS-B {' | STS-B '.join(forms)} |",
        f"|---|{'---:|' * (2 * len(forms))}",
    ]
    for width in kept[0]:
        size = {"float32": 4 * int(width), "int8": int(width) + 4}
        cells = [
            f"{np.mean([found[width][form] for found in kept]):.3f} ({size.get(form, int(width) // 8)} B)"
            for form in forms
        ]
        cells += [f"{sts['test'][width][form]:.3f}" for form in forms]
        lines.append(f"| {width} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _health(model: Path) -> str:
    found = _read(model / "health.json")
    if not found:
        return ""
    lines = [
        f"Of the tokens of {found['texts']:,} passages, and of their vectors:",
        "",
        "| behind | mean cosine | anisotropy | effective rank |",
        "|---|---:|---:|---:|",
    ]
    for place, one in enumerate(found["rows"]):
        last = place == len(found["rows"]) - 1 and one["rows"] == found["texts"]
        label = "dense vectors" if last else "embeddings" if place == 0 else f"layer {place}"
        rank = f"{one['effective_rank']:.0f} of {one['width']}"
        lines.append(f"| {label} | {one['mean_cosine']:.3f} | {one['anisotropy']:.3f} | {rank} |")
    return "\n".join([*lines, "", "![Anisotropy and effective rank behind every layer](quality-health.png)"])


def _overlap(model: Path) -> str:
    found = _read(model / "overlap.json")
    if not found:
        return ""
    return (
        f"Of {found['pairs']:,} training pairs, {found['sharing']:,} share a run of eight words with a query or a "
        "document of the test collections."
    )


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
