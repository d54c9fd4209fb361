"""Options that several commands share, so that they are spelled and explained once."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

DEFAULT_STORE = Path(".decant")


class Dtype(StrEnum):
    """Number formats an encoder computes in."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    INT8 = "int8"


class Mode(StrEnum):
    """Ways to search that every store knows."""

    DENSE = "dense"
    LEXICAL = "lexical"
    HYBRID = "hybrid"


Store = Annotated[
    Path,
    typer.Option(
        "--store",
        envvar="DECANT_STORE",
        metavar="DIR",
        help="Folder of the index, or s3://bucket/prefix.",
        show_default=True,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        envvar="DECANT_MODEL",
        metavar="MODEL",
        help="Model folder or hub name. Default: decant-mini, which comes with Decant.",
    ),
]
Device = Annotated[
    str | None, typer.Option("--device", metavar="DEVICE", help="cpu, cuda, cuda:1 … Default: the best one here.")
]
DtypeOption = Annotated[
    Dtype | None, typer.Option("--dtype", help="Number format. Default: bfloat16 where the hardware multiplies it.")
]
RouterWeight = Annotated[
    float,
    typer.Option("--router-weight", min=0, help="Weight of the router vectors in mode moee: cos + this x cos."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks and what libraries say.")]
