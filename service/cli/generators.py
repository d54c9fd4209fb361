"""Options of the commands that answer: who writes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ...embedder import Encoder
    from ...index.store import Store
    from ...rag import Answerer, AnswerRules

DEFAULT_GENERATOR = "evidence"

GeneratorName = Annotated[
    str,
    typer.Option(
        "--generator",
        envvar="DECANT_GENERATOR",
        metavar="WHO",
        help="Who writes: evidence (quotations), reader (the words of a passage that answer), xc (the same, of all "
        "passages at once), the address of an OpenAI-compatible endpoint, or the folder of a decoder or of "
        "cross-attention blocks.",
    ),
]
GeneratorModel = Annotated[
    str | None,
    typer.Option(
        "--generator-model",
        envvar="DECANT_GENERATOR_MODEL",
        metavar="NAME",
        help="What the endpoint calls its model. Its key is read from DECANT_GENERATOR_KEY.",
    ),
]
Draft = Annotated[
    str | None, typer.Option("--draft", metavar="FOLDER", help="A smaller decoder that drafts for the one that writes.")
]
Reuse = Annotated[
    float | None,
    typer.Option(
        "--kv-reuse",
        metavar="SHARE",
        help="Let a decoder keep each passage's keys and values and join them instead of reading it again: this share "
        "of them, 1 for all, less for the shortest keys alone.",
    ),
]


def make_answerer(
    store: Store,
    encoder: Encoder,
    rules: AnswerRules,
    generator: str,
    model: str | None,
    draft: str | None,
    device: str | None,
    reuse: float | None,
) -> Answerer:
    """An answerer with the generator that the options name; raises GeneratorError."""
    from ...rag.generators.choosing import GeneratorChoice, build_answerer

    return build_answerer(store, encoder, GeneratorChoice(generator, model, draft, device, reuse), rules)
