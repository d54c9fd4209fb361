"""What `decant eval` measures without a collection: `--mexa` on parallel text, `--health` on any text."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from .loading import waiting
from .output import print_json, results, say, table
from .problem import Problem

if TYPE_CHECKING:
    from ...embedder import Encoder


def read_parallel(paths: list[Path], fields: str | None) -> tuple[list[str], list[str]]:
    """Sentences and their translations: two files of equally many lines, or one .jsonl with two texts a line.

    Raises:
        BadParameter: neither two files nor one .jsonl.
        Problem: the sides differ in length, or a line has not two texts.
    """
    if len(paths) == 2:
        from .texts import read_items

        first, second = ([item.text for item in read_items([str(path)], "text", jsonl=None)] for path in paths)
        if len(first) != len(second):
            raise Problem(f"{paths[0]} has {len(first)} lines, {paths[1]} has {len(second)}: translations go by line")
        return first, second
    if len(paths) != 1 or paths[0].suffix != ".jsonl":
        raise typer.BadParameter("--mexa takes two text files, a sentence a line, or one .jsonl of pairs")
    return _read_pairs(paths[0], fields.split(",") if fields else None)


def _read_pairs(path: Path, names: list[str] | None) -> tuple[list[str], list[str]]:
    if names is not None and len(names) != 2:
        raise typer.BadParameter("name two fields with a comma between", param_hint="--fields")
    sides: tuple[list[str], list[str]] = ([], [])
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        try:
            record: Any = json.loads(line)
            texts = {name: text for name, text in dict(record).items() if isinstance(text, str) and text.strip()}
        except (ValueError, TypeError):
            raise Problem(f"{path}, line {number} is not a JSON object") from None
        chosen = [texts.get(name) for name in names] if names else list(texts.values())
        if len(chosen) != 2 or not all(chosen):
            wanted = " and ".join(names) if names else "exactly two texts"
            raise Problem(f"{path}, line {number} has not {wanted}: name the two fields with --fields")
        for side, text in zip(sides, chosen, strict=True):
            side.append(str(text))
    return sides


def run_mexa(encoder: Encoder, first: list[str], second: list[str], sentence: str, *, as_json: bool) -> None:
    """Measure and print."""
    from ...embedder.mexa import SentenceVector, mexa

    with waiting("reading"):
        found = mexa(encoder, first, second, sentence=SentenceVector(sentence))
    if as_json:
        print_json({**asdict(found), "mean": found.mean, "best": found.best, "chance": found.chance})
        return
    grid = table("layer", "aligned", right=("aligned",))
    for number, share in enumerate(found.layers):
        grid.add_row("embeddings" if number == 0 else str(number), f"{share:.3f}")
    grid.add_row("mean of layers", f"{found.mean:.3f}")
    grid.add_row("best layer", f"{found.best:.3f}")
    if found.vectors is not None:
        grid.add_row("dense vectors", f"{found.vectors:.3f}")
    results().print(grid)
    say(f"{found.pairs} pairs, sentences by {sentence}; vectors that know nothing reach about {found.chance:.3f}")


def run_health(encoder: Encoder, texts: list[str], plot: Path | None, *, as_json: bool) -> None:
    """Measure, draw if asked to, and print."""
    from ...embedder.health import measure_health, plot_health

    with waiting("reading"):
        found = measure_health(encoder, texts)
    if plot is not None:
        plot_health(found, plot)
    if as_json:
        print_json(asdict(found))
        return
    heads = ("rows", "mean cosine", "anisotropy", "effective rank")
    grid = table("layer", *heads, right=heads)
    named = [("embeddings" if i == 0 else str(i), one) for i, one in enumerate(found.layers)]
    for name, one in [*named, *([("dense vectors", found.vectors)] if found.vectors else [])]:
        rank = f"{one.effective_rank:.1f} of {one.width}"
        grid.add_row(name, f"{one.rows:,}", f"{one.mean_cosine:.3f}", f"{one.anisotropy:.3f}", rank)
    results().print(grid)
    if found.vectors and found.vectors.rows < 4 * found.vectors.width:
        say(f"{found.vectors.rows} texts fill few of {found.vectors.width} dimensions: give more for a fair rank")
