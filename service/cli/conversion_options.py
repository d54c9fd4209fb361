"""Options of the commands that change what a model is on its way in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Rule = Annotated[
    str | None,
    typer.Option(
        "--rule",
        metavar="NAME",
        help="Prompts, pooling and attention of a published model, such as e5-mistral, bge-en-icl, prompt-eol, rare.",
    ),
]
Adapters = Annotated[
    list[str] | None,
    typer.Option("--adapter", metavar="ADAPTER", help="PEFT folder merged on top; repeatable, in this order."),
]
Examples = Annotated[
    Path | None,
    typer.Option(
        "--examples",
        metavar="FILE",
        help="A .jsonl of query and positive: each query gets the nearest as examples.",
    ),
]
