"""`decant convert`."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .exit_codes import ExitCode
from .loading import load_encoder, waiting
from .options import Debug, Device, Json
from .output import print_json, say
from .problem import require_new
from .verify import print_measurements

if TYPE_CHECKING:
    from ...embedder import EncoderSpec

NAME = "convert"
SHORT_HELP = "Turn a decoder into a text encoder and save it as a model folder."


class AttentionChoice(StrEnum):
    """Mirror of the encoder spec's attention, for help without loading torch."""

    BIDIRECTIONAL = "bidirectional"
    CAUSAL = "causal"


class PoolingChoice(StrEnum):
    """Mirror of the encoder spec's pooling."""

    MEAN = "mean"
    WEIGHTED_MEAN = "weighted_mean"
    LAST = "last"
    FIRST = "first"
    MAX = "max"


def command(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Decoder, adapter or encoder: folder or hub name.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the encoder.")],
    attention: Annotated[AttentionChoice | None, typer.Option(help="What a token sees.")] = None,
    pooling: Annotated[PoolingChoice | None, typer.Option(help="How tokens become one vector.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Longest text, prompt included.")] = None,
    query_prompt: Annotated[str | None, typer.Option(help="Goes in front of queries; may hold {instruction}.")] = None,
    document_prompt: Annotated[str | None, typer.Option(help="Goes in front of documents.")] = None,
    instruction: Annotated[str | None, typer.Option(help="Fills {instruction} where the caller gives none.")] = None,
    include_prompt: Annotated[
        bool | None, typer.Option("--include-prompt/--exclude-prompt", help="Whether prompts are pooled.")
    ] = None,
    append_eos: Annotated[bool | None, typer.Option(help="Whether every text ends with EOS.")] = None,
    normalize: Annotated[bool | None, typer.Option(help="Whether vectors have length 1.")] = None,
    dimensions: Annotated[
        list[int] | None, typer.Option("--dimension", min=1, help="A width the model was trained for; repeatable.")
    ] = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Turn a decoder into a text encoder and save it as a model folder.

    What is not given stays as MODEL says, or as Decant's default for a plain decoder: bidirectional attention, mean
    pooling, vectors of length 1. Every invariant is measured first; a model that breaks one is not saved. The folder
    loads in Decant and in sentence-transformers. Weights keep their number format.
    """
    require_new(out)
    prompts = {k: v for k, v in (("query", query_prompt), ("document", document_prompt)) if v is not None}
    changes: dict[str, Any] = {
        "attention": attention and attention.value,
        "pooling": pooling and pooling.value,
        "max_tokens": max_tokens,
        "instruction": instruction,
        "include_prompt": include_prompt,
        "append_eos": append_eos,
        "normalize": normalize,
        "dimensions": tuple(dimensions) if dimensions else None,
    }
    with waiting("reading the model's description"):
        spec = _changed_spec(model, {k: v for k, v in changes.items() if v is not None}, prompts)
    encoder = load_encoder(model, device, "checkpoint", debug=debug, spec=spec, verify=False)
    from ...embedder.verify import verify_encoder

    with waiting("measuring"):
        measurements = verify_encoder(encoder)
    passed = all(m.passed for m in measurements)
    if passed:
        encoder.save(out)
    if as_json:
        broken = [m.name for m in measurements if not m.passed]
        print_json({"out": str(out) if passed else None, "passed": passed, "broken": broken})
    else:
        print_measurements(measurements)
        done = f"saved to {out}; {encoder.dimension} dimensions, up to {encoder.max_tokens} tokens"
        say(done if passed else "not saved: see the invariants that do not hold", style="green" if passed else "red")
    return ExitCode.OK if passed else ExitCode.UNVERIFIED


def _changed_spec(model: str, changes: dict[str, Any], prompts: dict[str, str]) -> EncoderSpec:
    from ...embedder.formats.folder import read_folder, resolve

    spec = read_folder(resolve(model)).spec
    if prompts:
        changes["prompts"] = {**spec.prompts, **prompts}
    return replace(spec, **changes)
