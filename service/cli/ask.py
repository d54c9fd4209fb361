"""`decant ask`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from .loading import load_encoder, waiting
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Json, Mode, Model, Store
from .output import print_json, results
from .problem import require_store

if TYPE_CHECKING:
    from ...rag import Answer

NAME = "ask"
SHORT_HELP = "Answer a question in the words of the documents, with sources."


def command(
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What you want to know.")],
    store: Store = DEFAULT_STORE,
    mode: Annotated[Mode, typer.Option("--mode", help="How passages are found, as in decant search.")] = Mode.HYBRID,
    passages: Annotated[int, typer.Option("--passages", min=1, help="How many passages are read.")] = 8,
    where: Annotated[
        str | None,
        typer.Option("--filter", metavar="SQL", help="Read only these, for example \"path LIKE '%.md'\"."),
    ] = None,
    model: Model = None,
    device: Device = None,
    dtype: DtypeOption = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer a question in the words of the documents, with sources.

    The answer is made of sentences quoted from the indexed documents, each followed by the number of its source; the
    sources name the file and the range of characters, checked against the stored text. Where no sentence speaks to
    the question strongly enough, the answer says so.
    """
    require_store(store)
    encoder = load_encoder(model, device, dtype, debug=debug)
    from ...index.store import Store as IndexStore
    from ...rag import Answerer, AnswerRules

    with waiting("reading"), IndexStore.open(store, encoder=encoder, read_only=True) as opened:
        rules = AnswerRules(passages=passages, mode=mode.value)
        answer = Answerer(opened, encoder, rules).ask(question, filter=where)
    if as_json:
        print_json(asdict(answer))
        return
    _print(answer)


def _print(answer: Answer) -> None:
    console = results()
    width = min(console.width, 100)
    console.print(Text(answer.text), width=width)
    for citation in answer.citations:
        place = f"{citation.path or citation.doc_id}:{citation.start_char}-{citation.end_char}"
        line = Text.assemble("\n" if citation.number == 1 else "", (f"[{citation.number}] ", "bold"), (place, "cyan"))
        console.print(line, width=width)
