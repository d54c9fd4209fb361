"""`decant embed`."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .exit_codes import ExitCode
from .loading import load_encoder
from .options import Debug, Device, DtypeOption, Json, Model
from .output import print_json, say
from .progress import progress_bar

if TYPE_CHECKING:
    from ...embedder import Encoder

NAME = "embed"
SHORT_HELP = "Turn texts into vectors."


class Truncate(StrEnum):
    """What happens to a text longer than the model takes."""

    END = "end"
    ERROR = "error"


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
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Turn texts into vectors, as many as there are, in constant memory.

    Vectors come in the order of the texts: one JSON object per line on stdout, or a file that appears when it is
    complete. With --json (and --out) a summary goes to stdout.
    """
    if as_json and out is None:
        raise typer.BadParameter("--json prints a summary: say with --out where the vectors go", param_hint="--json")
    encoder = load_encoder(model, device, dtype, debug=debug)
    jsonl = None if input_format is None else input_format is InputFormat.JSONL
    began = time.monotonic()
    summary = _embed(encoder, files or ["-"], out, kind, instruction, dimensions, truncate, field, jsonl)
    seconds = time.monotonic() - began
    texts, tokens, truncated = summary
    if as_json:
        facts = {"out": str(out), "texts": texts, "tokens": tokens, "truncated": truncated}
        print_json({**facts, "dimensions": dimensions or encoder.dimension, "seconds": round(seconds, 3)})
    elif out is not None:
        say(f"{texts:,} texts, {tokens:,} tokens in {seconds:.1f} s -> {out}")
    if truncated:
        say(f"{truncated:,} texts were cut to {encoder.max_tokens} tokens", style="yellow")
    return ExitCode.OK


def _embed(
    encoder: Encoder,
    files: list[str],
    out: Path | None,
    kind: str,
    instruction: str | None,
    dimensions: int | None,
    truncate: Truncate,
    field: str,
    jsonl: bool | None,
) -> tuple[int, int, int]:
    """Stream the texts through the encoder; return how many texts and tokens there were, and how many were cut."""
    from ...embedder.errors import InputError
    from .texts import read_items
    from .vectors import writer_to

    names: deque[str] = deque()

    def texts() -> Iterator[str]:
        for item in read_items(files, field, jsonl=jsonl):
            names.append(item.name)
            yield item.text

    count = tokens = truncated = 0
    with writer_to(out) as writer, progress_bar("embedding") as advance:
        parts = encoder.encode_stream(
            texts(), kind=kind, instruction=instruction, dimensions=dimensions, truncate=truncate.value
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
