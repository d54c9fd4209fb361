"""`decant ask`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .generators import DEFAULT_GENERATOR, Draft, GeneratorModel, GeneratorName, Reuse, make_answerer
from .loading import waiting
from .opening import open_index
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Json, Mode, Model, Store
from .output import print_json, results, say

if TYPE_CHECKING:
    from rich.console import Console

    from ...rag import Answer

NAME = "ask"
SHORT_HELP = "Answer a question from the documents, with sources."


def command(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What you want to know.")],
    store: Store = DEFAULT_STORE,
    mode: Annotated[Mode, typer.Option("--mode", help="How passages are found, as in decant search.")] = Mode.HYBRID,
    passages: Annotated[int, typer.Option("--passages", min=1, help="How many passages are read.")] = 8,
    where: Annotated[
        str | None,
        typer.Option("--filter", metavar="SQL", help="Read only these, for example \"path LIKE '%.md'\"."),
    ] = None,
    generator: GeneratorName = DEFAULT_GENERATOR,
    generator_model: GeneratorModel = None,
    draft: Draft = None,
    kv_reuse: Reuse = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer a question from the documents, with sources.

    Every sentence of the answer is followed by the number of its source; the sources name the file and the range of
    characters, checked against the stored text, and quote it. Sentences that the documents do not hold are left out.
    Where nothing in the documents speaks to the question strongly enough, the answer says so.
    """
    with open_index(store, model, device, dtype, debug=debug) as (opened, encoder):
        from ...rag import AnswerRules

        rules = AnswerRules(passages=passages, mode=mode.value)
        answerer = make_answerer(opened, encoder, rules, generator, generator_model, draft, device, kv_reuse)
        if as_json:
            print_json(asdict(answerer.ask(question, filter=where)))
            return
        with waiting("reading"):
            pieces = answerer.stream(question, filter=where)
            first = next(pieces)
        show_answer(first, pieces)


def show_answer(first: str | Answer, pieces: Iterator[str | Answer]) -> Answer:
    """Print an answer's text as it comes, then its sources; return it."""
    from ...rag import Answer

    console = results()
    piece: str | Answer = first
    while not isinstance(piece, Answer):
        console.print(Text(piece), end="", soft_wrap=True)
        piece = next(pieces)
    console.print()
    _print_sources(console, piece)
    if piece.note:
        say(piece.note)
    elif piece.grounded and piece.confidence is not None:
        say(f"{piece.generator}, {100 * piece.confidence:.0f} % sure")
    if piece.dropped:
        say(f"left out, because the documents do not say it: {' / '.join(piece.dropped)}", style="yellow")
    return piece


def _print_sources(console: Console, answer: Answer) -> None:
    width = min(console.width, 100)
    for citation in answer.citations:
        place = f"{citation.path or citation.doc_id}:{citation.start_char}-{citation.end_char}"
        line = Text.assemble("\n" if citation.number == 1 else "", (f"[{citation.number}] ", "bold"), (place, "cyan"))
        console.print(line, width=width)
        if answer.generator != "evidence":
            console.print(Text("    " + " ".join(citation.text.split()), style="dim"), width=width)
