"""`decant eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .loading import load_encoder
from .options import Debug, Device, DtypeOption, Json, Mode, Model
from .output import print_json, results, table
from .progress import progress_bar

NAME = "eval"
SHORT_HELP = "Measure search quality on a BEIR folder."


def command(
    beir: Annotated[
        Path, typer.Argument(metavar="BEIR_DIR", help="Folder with corpus.jsonl, queries.jsonl and qrels/.")
    ],
    model: Model = None,
    modes: Annotated[
        list[Mode] | None, typer.Option("--mode", help="A way to search; repeatable. Default: all of them.")
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

    A document longer than a passage is cut, and scores as its best passage. With --json: one key per mode.
    """
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...index.evaluate import evaluate

    with progress_bar("evaluating") as advance:
        measured = evaluate(
            beir,
            encoder,
            modes=[mode.value for mode in modes or list(Mode)],
            split=split,
            store_dir=store,
            run_dir=run_dir,
            progress=advance,
        )
    if as_json:
        print_json(measured)
        return
    names = list(next(iter(measured.values()), {}))
    grid = table("mode", *names, right=tuple(names))
    for mode, values in measured.items():
        grid.add_row(mode, *(f"{values[name]:.4f}" for name in names))
    results().print(grid)
