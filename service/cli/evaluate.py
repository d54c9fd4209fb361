"""`decant eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .loading import load_encoder
from .options import Debug, Device, DtypeOption, Json, Mode, Model
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
        str, typer.Option("--modes", metavar="LIST", help="Ways to search, with commas between.")
    ] = ",".join(Mode),
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

    A document longer than a passage is cut, and scores as its best passage. With --json: one key per mode.
    """
    chosen = _modes(modes)
    require_paths([beir])
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...index.evaluate import evaluate

    with progress_bar("evaluating") as advance:
        measured = evaluate(
            beir,
            encoder,
            modes=chosen,
            split=split,
            store_dir=store,
            run_dir=run_dir,
            progress=lambda now: advance(now.done, now.total or None, f"{now.stage} {now.done:,}"),
        )
    if as_json:
        print_json(measured)
        return
    names = list(next(iter(measured.values()), {}))
    grid = table("mode", *names, right=tuple(names))
    for mode, values in measured.items():
        grid.add_row(mode, *(f"{values[name]:.4f}" for name in names))
    results().print(grid)


def _modes(text: str) -> list[str]:
    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = sorted(set(chosen) - set(Mode))
    if unknown or not chosen:
        known = ", ".join(Mode)
        raise typer.BadParameter(f"{', '.join(unknown) or 'nothing'}: choose from {known}", param_hint="--modes")
    return chosen
