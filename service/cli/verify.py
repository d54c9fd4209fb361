"""`decant verify`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .conversion_options import Adapters, Rule
from .exit_codes import ExitCode
from .loading import load_encoder, waiting
from .options import Debug, Device, DtypeOption, Json
from .output import print_json, results, say, table

if TYPE_CHECKING:
    from ...embedder.verify import Measurement

NAME = "verify"
SHORT_HELP = "Measure every invariant of a model, and say whether its vectors can be trusted."


def command(
    model: Annotated[
        str | None,
        typer.Argument(metavar="MODEL", envvar="DECANT_MODEL", help="Model folder or hub name. Default: decant-mini."),
    ] = None,
    rule: Rule = None,
    adapter: Adapters = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Measure every invariant of a model, and say whether its vectors can be trusted.

    Among others: does each token see the whole text, does a text's vector stay the same whatever is encoded beside
    it, is the instruction left out where it should be, does a saved copy give the same bytes. Exits with 4 if one
    of them does not hold.
    """
    encoder = load_encoder(model, device, dtype, debug=debug, rule=rule, adapters=adapter or (), verify=False)
    from ...embedder.verify import verify_encoder

    with waiting("measuring"):
        measurements = verify_encoder(encoder)
    passed = all(m.passed for m in measurements)
    if as_json:
        backbone = encoder.backbone
        print_json(
            {
                "model": str(encoder.path),
                "fingerprint": encoder.fingerprint,
                "engine": backbone.engine,
                "outputs": list(encoder.outputs),
                "device": str(backbone.device),
                "dtype": backbone.number_format,
                "passed": passed,
                "measurements": [{**asdict(m), "value": _number(m.value)} for m in measurements],
            }
        )
    else:
        print_measurements(measurements)
        if not passed:
            broken = ", ".join(m.name for m in measurements if not m.passed)
            say(f"its vectors cannot be trusted: {broken}", "red")
    return ExitCode.OK if passed else ExitCode.UNVERIFIED


def _number(value: float) -> float | None:
    """What JSON has of it: nothing for NaN, which stands for what could not be measured."""
    return value if math.isfinite(value) else None


def print_measurements(measurements: Sequence[Measurement]) -> None:
    """Print one line per invariant: its value, its bound, and whether it holds."""
    grid = table("invariant", "value", "bound", "", "what it means", right=("value", "bound"))
    for m in measurements:
        verdict = Text("holds", "green") if m.passed else Text("BROKEN", "bold red")
        grid.add_row(m.name, f"{m.value:.3g}", f"{m.bound:.3g}", verdict, Text(m.detail, "dim"))
    results().print(grid)
