"""`decant bench`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from .exit_codes import ExitCode
from .loading import load_encoder, name_of, waiting
from .options import Debug, Device, DtypeOption, Json, Model
from .output import print_json, write_line

if TYPE_CHECKING:
    from ...embedder.measure import Measurement

NAME = "bench"
SHORT_HELP = "Measure how fast a model encodes your texts here, and where the time goes."


def command(
    files: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE", help="Texts, a line each, or .jsonl; - is stdin. Default: a built-in sample."),
    ] = None,
    texts: Annotated[int, typer.Option(min=1, help="At most so many texts are read.")] = 500,
    rounds: Annotated[int, typer.Option(min=1, help="Passes over the texts; medians count.")] = 3,
    kind: Annotated[str, typer.Option(help="Which of the model's prompts to use: query or document.")] = "document",
    field: Annotated[str, typer.Option(help="Field of a .jsonl that holds the text.")] = "text",
    batch_tokens: Annotated[int | None, typer.Option(min=1, help="Token budget of one forward.")] = None,
    threads: Annotated[
        str | None,
        typer.Option(metavar="NUMBERS", help="Compare numbers of threads, as in 1,2,4.", show_default=False),
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Measure how fast a model encodes your texts on this machine, and where the time goes.

    The share of the ceiling compares the whole pass with the model's own matrix products alone, measured here and
    now: it says how much is left to gain without a faster machine. Other work on the machine lowers all figures.

    --threads encodes the texts with each number of threads in turn, --rounds times, and names the fastest. What it
    names is set with OMP_NUM_THREADS, for any command.
    """
    numbers = _numbers(threads)
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...embedder.measure import measure, measure_threads
    from .texts import read_items

    chosen = [item.text for item in islice(read_items(files, field, jsonl=None), texts)] if files else _sample(texts)
    if numbers:
        with waiting("measuring"):
            rates = measure_threads(encoder, chosen, numbers, kind=kind, rounds=rounds, batch_tokens=batch_tokens)
        _print_threads(rates, as_json=as_json)
        return ExitCode.OK
    with waiting("measuring"):
        found = measure(encoder, chosen, kind=kind, rounds=rounds, batch_tokens=batch_tokens)
    facts = _facts(found)
    if as_json:
        where = {
            "model": name_of(model),
            "device": str(encoder.backbone.device),
            "dtype": encoder.backbone.number_format,
        }
        print_json({**where, **facts, "stages": {k: _digits(v) for k, v in found.stages.items()}})
        return ExitCode.OK
    _print(found, f"{name_of(model)}, {encoder.backbone.number_format} on {encoder.backbone.device}")
    return ExitCode.OK


def _numbers(threads: str | None) -> list[int]:
    try:
        numbers = [int(number) for number in threads.split(",")] if threads is not None else []
    except ValueError:
        numbers = [0]
    if any(number < 1 for number in numbers):
        raise typer.BadParameter("numbers of threads, as in 1,2,4", param_hint="--threads")
    return numbers


def _print_threads(rates: dict[int, float], *, as_json: bool) -> None:
    fastest = max(rates, key=lambda number: rates[number])
    if as_json:
        print_json({"tokens_per_second": {str(n): _digits(rate) for n, rate in rates.items()}, "fastest": fastest})
        return
    for number, rate in rates.items():
        write_line(f"  {number:3} threads  {rate:12,.0f} tokens/s")
    write_line(f"fastest: OMP_NUM_THREADS={fastest}")


def _sample(count: int) -> list[str]:
    """Texts of unequal length where the user has none at hand."""
    sentence = "The river rises in the hills and reaches the sea after two hundred miles of meadows, mills and towns."
    words = sentence.split()
    return [" ".join((words * 12)[: 4 + i * 37 % 180]) for i in range(count)]


def _facts(found: Measurement) -> dict[str, float | int]:
    rates = {
        "seconds": found.seconds,
        "texts_per_second": found.texts / found.seconds,
        "tokens_per_second": found.tokens / found.seconds,
        "gflops_per_second": found.flops / found.seconds / 1e9,
        "ceiling_gflops_per_second": found.ceiling_flops_per_second / 1e9,
        "share_of_ceiling": found.utilisation,
    }
    counts = {"texts": found.texts, "tokens": found.tokens, "threads": found.threads}
    return {**counts, **{name: _digits(rate) for name, rate in rates.items()}}


def _digits(value: float) -> float:
    """Four significant digits: a tiny model's figures are figures too."""
    return float(f"{value:.4g}")


def _print(found: Measurement, title: str) -> None:
    rows = {
        "texts": f"{found.texts:,} of {found.tokens / found.texts:.0f} tokens on average",
        "speed": f"{found.texts / found.seconds:,.0f} texts/s, {found.tokens / found.seconds:,.0f} tokens/s",
        "arithmetic": f"{found.flops / found.seconds / 1e9:,.0f} GFLOP/s, {found.threads} threads",
        "ceiling": f"{found.ceiling_flops_per_second / 1e9:,.0f} GFLOP/s, the model's matrix products alone",
        "share of ceiling": f"{found.utilisation:.0%}",
    }
    for name, seconds in found.stages.items():
        rows[f"time: {name}"] = f"{seconds / found.seconds:.1%}"
    write_line(title)
    for name, value in rows.items():
        write_line(f"  {name:18}{value}")
