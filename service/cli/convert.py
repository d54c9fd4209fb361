"""`decant convert`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .conversion_options import Adapters, Examples, Rule
from .exit_codes import ExitCode
from .loading import load_encoder, waiting
from .options import Debug, Device, Json
from .output import print_json, say
from .problem import require_new
from .verify import print_measurements

if TYPE_CHECKING:
    from ...embedder import Encoder, EncoderSpec

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
    NONE = "none"


class RouterChoice(StrEnum):
    """Where routers are read, for help without loading torch."""

    LAST = "last"
    MEAN = "mean"


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
    rule: Rule = None,
    adapter: Adapters = None,
    examples: Examples = None,
    sparse: Annotated[
        bool | None, typer.Option(help="Weighted terms from the language-model head, beside or without a dense vector.")
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", min=1, help="Most terms of a sparse vector.")] = None,
    sparse_shifted: Annotated[
        bool | None, typer.Option(help="Whether a token's logits speak of the next one, as after MNTP.")
    ] = None,
    sparse_special_tokens: Annotated[
        bool | None, typer.Option(help="Whether special tokens take part, as in sentence-transformers.")
    ] = None,
    router: Annotated[
        RouterChoice | None, typer.Option(help="Router vectors of a mixture of experts, read at the last token or all.")
    ] = None,
    router_calibration: Annotated[
        Path | None,
        typer.Option(metavar="TEXTS", help="Texts, a line each, that fix each dimension's mean and deviation."),
    ] = None,
    device: Device = None,
    as_json: Json = False,
    debug: Debug = False,
) -> int:
    """Turn a decoder into a text encoder and save it as a model folder.

    What is not given stays as MODEL says, or as Decant's default for a plain decoder: bidirectional attention, mean
    pooling, vectors of length 1. Every invariant is measured first; a model that breaks one is not saved. The folder
    loads in Decant and, where that can express it, in sentence-transformers. Weights keep their number format.
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
    heads = Heads(sparse, top_k, sparse_shifted, sparse_special_tokens, router and router.value)
    adapters = adapter or []
    with waiting("reading the model's description"):
        spec = _changed_spec(model, adapters, rule, {k: v for k, v in changes.items() if v is not None}, prompts, heads)
    encoder = load_encoder(
        model, device, "checkpoint", debug=debug, spec=spec, adapters=adapters, examples=examples, verify=False
    )
    if router_calibration is not None:
        encoder = _calibrated(encoder, router_calibration)
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
        done = f"saved to {out}; {_offer(encoder)}, up to {encoder.max_tokens} tokens"
        say(done if passed else "not saved: see the invariants that do not hold", style="green" if passed else "red")
    return ExitCode.OK if passed else ExitCode.UNVERIFIED


@dataclass(frozen=True)
class Heads:
    """What the command line says of heads beside the dense vector; None where it says nothing."""

    sparse: bool | None
    top_k: int | None
    shifted: bool | None
    special_tokens: bool | None
    router: str | None

    def over(self, spec: EncoderSpec) -> dict[str, Any]:
        """The fields of a spec that change."""
        from ...embedder.spec import Pooling, RouterSpec, SparseSpec

        changes: dict[str, Any] = {}
        options = {"top_k": self.top_k, "shifted": self.shifted, "special_tokens": self.special_tokens}
        given = {name: value for name, value in options.items() if value is not None}
        if self.sparse is False:
            changes["sparse"] = None
        elif self.sparse or given:
            changes["sparse"] = replace(spec.sparse or SparseSpec(), **given)
        if self.router is not None:
            changes["router"] = replace(spec.router or RouterSpec(), pooling=Pooling(self.router))
        return changes


def _calibrated(encoder: Encoder, texts: Path) -> Encoder:
    from .texts import read_items

    with waiting("calibrating"):
        return encoder.calibrated(item.text for item in read_items([str(texts)], "text", jsonl=None))


def _offer(encoder: Encoder) -> str:
    """What the saved encoder makes of a text, in a few words."""
    made = [f"{encoder.dimension} dimensions"] if "dense" in encoder.outputs else []
    made += [f"{encoder.sparse_head.terms:,} terms"] if encoder.sparse_head else []
    made += [f"{encoder.router_head.experts:,} experts"] if encoder.router_head else []
    return ", ".join(made)


def _changed_spec(
    model: str,
    adapters: list[str],
    rule: str | None,
    changes: dict[str, Any],
    prompts: dict[str, str],
    heads: Heads,
) -> EncoderSpec:
    from ...embedder.formats.folder import read_folder, resolve, stack_adapters
    from ...embedder.prompts import apply_rule

    files = stack_adapters(read_folder(resolve(model), alone=not adapters), [resolve(each) for each in adapters])
    spec = apply_rule(rule, files.spec) if rule else files.spec
    if prompts:
        changes["prompts"] = {**spec.prompts, **prompts}
    if changes.get("pooling") == PoolingChoice.NONE.value:
        changes |= {"dense": (), "dimensions": (), "default_dimension": None, "standardize": False, "latent": None}
    return replace(spec, **changes, **heads.over(spec))
