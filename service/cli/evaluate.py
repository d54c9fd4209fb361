"""`decant eval`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .eval_layers import read_parallel, run_health, run_mexa
from .loading import load_encoder
from .modes import checked_modes
from .options import Debug, Device, DtypeOption, Json, Model, RouterWeight
from .output import print_json, results, table
from .problem import require_paths
from .progress import progress_bar

if TYPE_CHECKING:
    from ...embedder import Encoder

NAME = "eval"
SHORT_HELP = "Measure search quality on a BEIR folder, or a model layer by layer."


class Sentence(StrEnum):
    """How --mexa makes a sentence's vector of a layer."""

    WEIGHTED = "weighted"
    LAST = "last"


def command(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATH",
            help="Folder with corpus.jsonl, queries.jsonl and qrels/; or texts: see --mexa.",
        ),
    ],
    model: Model = None,
    modes: Annotated[
        str | None,
        typer.Option(
            "--modes",
            metavar="LIST",
            help="Ways to search, commas between. Default: all its index can do.",
        ),
    ] = None,
    router_weight: RouterWeight = 1.0,
    split: Annotated[str, typer.Option(help="Which qrels/SPLIT.tsv.")] = "test",
    store: Annotated[
        Path | None, typer.Option("--store", metavar="DIR", help="Keep the index here. Default: a temporary folder.")
    ] = None,
    run_dir: Annotated[
        Path | None, typer.Option("--run-dir", metavar="DIR", help="Write a TREC run file per mode here.")
    ] = None,
    mexa: Annotated[
        bool,
        typer.Option(
            "--mexa", help="Cross-lingual alignment of each layer, on two files of equal lines or a .jsonl of pairs."
        ),
    ] = False,
    sentence: Annotated[Sentence, typer.Option(help="With --mexa: position-weighted mean, or last token.")] = (
        Sentence.WEIGHTED
    ),
    fields: Annotated[
        str | None, typer.Option("--fields", metavar="A,B", help="With --mexa: the two texts of a .jsonl line.")
    ] = None,
    health: Annotated[
        bool,
        typer.Option("--health", help="Anisotropy and effective rank of each layer, on text files or .jsonl."),
    ] = False,
    plot: Annotated[Path | None, typer.Option("--plot", metavar="FILE", help="With --health: draw a picture.")] = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Measure search quality on a BEIR folder: nDCG@10, AP, R@100 and RR@10 for each mode.

    A document longer than a passage is cut, and scores as its best passage. Each mean comes with the interval that
    holds it in 95 of 100 draws of as many queries (bootstrap). With --json: one key per mode, intervals as `X_ci95`.

    With --mexa, measure instead how many sentences each layer brings nearest to their translation (MEXA); with
    --health, how much of its room each layer uses.
    """
    chosen = None if modes is None else checked_modes(modes, "--modes")
    if mexa and health:
        raise typer.BadParameter("choose --mexa or --health")
    require_paths(paths)
    if mexa:
        first, second = read_parallel(paths, fields)
        run_mexa(load_encoder(model, device, dtype, debug=debug), first, second, sentence, as_json=as_json)
        return
    if health:
        from .texts import read_items

        texts = [item.text for item in read_items([str(path) for path in paths], "text", jsonl=None)]
        run_health(load_encoder(model, device, dtype, debug=debug), texts, plot, as_json=as_json)
        return
    if len(paths) != 1:
        raise typer.BadParameter("give one BEIR folder")
    encoder = load_encoder(model, device, dtype, debug=debug)
    _run_beir(encoder, paths[0], chosen, router_weight, split, store, run_dir, as_json=as_json)


def _run_beir(
    encoder: Encoder,
    beir: Path,
    modes: list[str] | None,
    router_weight: float,
    split: str,
    store: Path | None,
    run_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    from ...index.evaluate import evaluate_per_query

    with progress_bar("evaluating") as advance:
        scores = evaluate_per_query(
            beir,
            encoder,
            modes=modes,
            router_weight=router_weight,
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
