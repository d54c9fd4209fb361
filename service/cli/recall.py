"""`decant recall`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .loading import waiting
from .modes import checked_modes
from .opening import open_index
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Json, Model, Store
from .output import print_json, results, say, table
from .problem import Problem

if TYPE_CHECKING:
    from ...index.store import Store as IndexStore

NAME = "recall"
SHORT_HELP = "Measure what the fast search misses, and how fast it is."
SAMPLE = 100


def command(
    queries: Annotated[
        Path | None,
        typer.Argument(metavar="[QUERIES]", help="Text file, a question a line. Default: sentences of the index."),
    ] = None,
    store: Store = DEFAULT_STORE,
    modes: Annotated[
        str | None, typer.Option("--modes", metavar="LIST", help="Ways to search, with commas between. Default: all.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Results compared.")] = 10,
    where: Annotated[str | None, typer.Option("--filter", metavar="SQL", help="Search only these.")] = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure what the fast search misses, and how fast it is: each mode against the exact one, on your index.

    Recall is the share of the exact best results that the fast search finds. Milliseconds are of one search, encoding
    left out. Give real questions: the index's own sentences, which are used otherwise, are found too easily.
    """
    wanted = None if modes is None else checked_modes(modes, "--modes")
    asked = _lines(queries) if queries is not None else None
    with open_index(store, model, device, dtype, debug=debug) as (opened, encoder), waiting("searching"):
        from ...index.modes import available
        from ...index.recall import measure_recall
        from ...index.searcher import Searcher

        texts = asked or _sample(opened)
        searcher = Searcher(opened, encoder)
        chosen = wanted or available(opened.meta.layout)
        reports = [measure_recall(searcher, texts, mode=mode, k=k, filter=where) for mode in chosen]
    if as_json:
        print_json({report.mode: asdict(report) for report in reports})
        return
    if asked is None:
        say(f"{len(texts)} sentences of the index as questions; give a file of real ones for a fair figure")
    numbers = (f"recall@{k}", "p50 ms", "p99 ms", "exact p50", "exact p99")
    grid = table("mode", "search", *numbers, right=numbers)
    for report in reports:
        times = (*report.milliseconds, *report.exact_milliseconds)
        grid.add_row(report.mode, report.search, f"{report.recall:.4f}", *(f"{value:.2f}" for value in times))
    results().print(grid)


def _lines(file: Path) -> list[str]:
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise Problem(f"{file} cannot be read as text: give a UTF-8 file with a question a line") from error
    if not lines:
        raise Problem(f"{file} holds no question: write one a line")
    return lines


def _sample(store: IndexStore) -> list[str]:
    """The first lines of some passages, the same ones every time."""
    import numpy as np

    snapshot = store.snapshot()
    if not len(snapshot):
        raise Problem(f"the store at {store.root} is empty: index something first")
    places = np.random.default_rng(0).choice(len(snapshot), min(SAMPLE, len(snapshot)), replace=False)
    texts = snapshot.take(np.sort(places), ["text"])["text"].to_pylist()
    return [text.strip().splitlines()[0][:300] or text[:300] for text in texts if text.strip()]
