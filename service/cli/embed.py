"""`decant embed`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from .conversion_options import Adapters, Examples, Rule
from .exit_codes import ExitCode
from .loading import load_encoder
from .options import Debug, Device, DtypeOption, Json, Model
from .output import print_json, say
from .progress import progress_bar

if TYPE_CHECKING:
    from ...embedder import Encoder
    from .vectors import Writer

NAME = "embed"
SHORT_HELP = "Turn texts into vectors."


class Truncate(StrEnum):
    """What happens to a text longer than the model takes."""

    END = "end"
    ERROR = "error"


class Output(StrEnum):
    """What a text can be turned into; a model offers some of them."""

    DENSE = "dense"
    SPARSE = "sparse"
    ROUTER = "router"


@dataclass(frozen=True)
class Request:
    """The arguments of `Encoder.encode_stream` besides the texts."""

    kind: str
    instruction: str | None
    examples: list[tuple[str, str]]
    outputs: tuple[str, ...] | None
    dimensions: int | None
    truncate: Literal["end", "error"]


class InputFormat(StrEnum):
    """How texts are laid out."""

    TEXT = "text"
    JSONL = "jsonl"


def command(
    files: Annotated[
        list[str] | None, typer.Argument(metavar="FILE", help="Texts, a line each, or .jsonl; - is stdin.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="A .parquet, .npy or .jsonl. Default: stdout.")
    ] = None,
    kind: Annotated[str, typer.Option(help="Which of the model's prompts to use: query or document.")] = "document",
    instruction: Annotated[str | None, typer.Option(help="The task, for models that take one.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Width of the vectors, if the model has it.")] = None,
    truncate: Annotated[Truncate, typer.Option(help="Cut what is too long, or refuse it.")] = Truncate.END,
    input_format: Annotated[InputFormat | None, typer.Option(help="Overrules the file's name.")] = None,
    field: Annotated[str, typer.Option(help="Field of a .jsonl that holds the text.")] = "text",
    output: Annotated[
        list[Output] | None, typer.Option("--output", help="What to make of each text; repeatable. Default: dense.")
    ] = None,
    explain: Annotated[
        int | None, typer.Option("--explain", min=1, metavar="N", help="Show each text's N heaviest terms instead.")
    ] = None,
    example: Annotated[
        list[str] | None,
        typer.Option("--example", metavar="QUERY=>PASSAGE", help="A worked example in the prompt; repeatable."),
    ] = None,
    examples: Examples = None,
    rule: Rule = None,
    adapter: Adapters = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Turn texts into vectors, as many as there are, in constant memory.

    With --output sparse a text becomes weighted terms, with --output router the choice of a mixture's experts, where
    the model offers them; --explain shows the terms to people. Vectors come in the order of the texts: one JSON object
    per line on stdout, or a file that appears when it is complete. With --json (and --out) a summary goes to stdout.
    """
    from .terms import TermWriter
    from .vectors import writer_to

    if as_json and out is None and explain is None:
        raise typer.BadParameter("--json prints a summary: say with --out where the vectors go", param_hint="--json")
    if explain is not None and (out is not None or output):
        raise typer.BadParameter("--explain prints terms: leave --out and --output away", param_hint="--explain")
    shown = _pairs(example or [])
    encoder = load_encoder(model, device, dtype, debug=debug, rule=rule, adapters=adapter or (), examples=examples)
    request = Request(kind, instruction, shown, _outputs(encoder, output, explain), dimensions, truncate.value)
    jsonl = None if input_format is None else input_format is InputFormat.JSONL
    began = time.monotonic()
    sink = writer_to(out) if explain is None else nullcontext(TermWriter(encoder, explain, as_json=as_json))
    texts, tokens, truncated = _embed(encoder, files or ["-"], sink, request, field, jsonl)
    seconds = time.monotonic() - began
    if as_json and explain is None:
        facts = {"out": str(out), "texts": texts, "tokens": tokens, "truncated": truncated}
        print_json({**facts, "dimensions": dimensions or encoder.dimension, "seconds": round(seconds, 3)})
    elif out is not None:
        say(f"{texts:,} texts, {tokens:,} tokens in {seconds:.1f} s -> {out}")
    if truncated:
        say(f"{truncated:,} texts were cut to {encoder.max_tokens} tokens", style="yellow")
    return ExitCode.OK


def _pairs(examples: list[str]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for example in examples:
        query, arrow, passage = example.partition("=>")
        if not (arrow and query.strip() and passage.strip()):
            raise typer.BadParameter(f"{example!r} is not QUERY=>PASSAGE", param_hint="--example")
        pairs.append((query.strip(), passage.strip()))
    return pairs


def _outputs(encoder: Encoder, output: list[Output] | None, explain: int | None) -> tuple[str, ...] | None:
    if explain is not None:
        return ("sparse",)
    return tuple(dict.fromkeys(each.value for each in output)) if output else None


def _embed(
    encoder: Encoder,
    files: list[str],
    sink: AbstractContextManager[Writer],
    request: Request,
    field: str,
    jsonl: bool | None,
) -> tuple[int, int, int]:
    """Stream the texts through the encoder; return how many texts and tokens there were, and how many were cut."""
    from ...embedder.errors import InputError
    from .texts import read_items

    names: deque[str] = deque()

    def texts() -> Iterator[str]:
        for item in read_items(files, field, jsonl=jsonl):
            names.append(item.name)
            yield item.text

    count = tokens = truncated = 0
    with sink as writer, progress_bar("embedding") as advance:
        parts = encoder.encode_stream(
            texts(),
            kind=request.kind,
            instruction=request.instruction,
            examples=request.examples,
            outputs=request.outputs,
            dimensions=request.dimensions,
            truncate=request.truncate,
        )
        for part in parts:
            writer.write([names.popleft() for _ in range(len(part))], part)
            count += len(part)
            tokens += int(part.tokens.sum())
            truncated += int(part.truncated.sum())
            advance(count, None, f"{count:,} texts")
        if count == 0:
            raise InputError("there is nothing to embed: give texts, one per line")
    return count, tokens, truncated
