"""`decant eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .loading import load_encoder
from .modes import checked_modes
from .options import Debug, Device, DtypeOption, Json, Model
from .output import print_json, results, table
from .problem import require_paths
from .progress import progress_bar

NAME = "eval"
SHORT_HELP = "Measure search quality on a BEIR folder."


def command(
    beir: Annotated[
        Path, typer.Argument(metavar="BEIR_DIR", help="Folder with corpus.jsonl, queries.jsonl and qrels/.")
    ],
    model: Model = None,
    modes: Annotated[
        str | None,
        typer.Option("--modes", metavar="LIST", help="Ways to search, commas between. Default: all the model has."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Keep the index here. Default: a temporary folder.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Write a TREC run file per mode here.")
    ] = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure search quality on a BEIR folder: nDCG@10, AP, R@100 and RR@10 for each mode.

    A document longer than a passage is cut, and scores as its best passage. Each mean comes with the interval that
    holds it in 95 of 100 draws of as many queries (bootstrap). With --json: one key per mode, intervals as `X_ci95`.
    """
    chosen = None if modes is None else checked_modes(modes, "--modes")
    require_paths([beir])
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...index.evaluate import evaluate_per_query

    with progress_bar("evaluating") as advance:
        scores = evaluate_per_query(
            beir,
            encoder,
            modes=chosen,
            split=split,
            store_dir=store,
            run_dir=run_dir,
            progress=lambda now: advance(now.done, now.total or None, f"{now.stage} {now.done:,}"),
        )
    measured = {mode: found.means() for mode, found in scores.items()}
    intervals = {mode: found.intervals() for mode, found in scores.items()}
    names = list(next(iter(measured.values()), {}))
    if as_json:
        pairs = {mode: {f"{name}_ci95": list(intervals[mode][name]) for name in names} for mode in measured}
        print_json({mode: {**values, **pairs[mode]} for mode, values in measured.items()})
        return
    grid = table("mode", *names, right=tuple(names))
    for mode, values in measured.items():
        grid.add_row(mode, *(_cell(values[name], intervals[mode][name]) for name in names))
    results().print(grid)


def _cell(mean: float, interval: tuple[float, float]) -> str:
    return f"{mean:.4f} [{interval[0]:.3f}, {interval[1]:.3f}]"
