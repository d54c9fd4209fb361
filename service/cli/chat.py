"""`decant chat`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from .ask import show_answer
from .generators import DEFAULT_GENERATOR, Draft, GeneratorModel, GeneratorName, Reuse, make_answerer
from .opening import open_index
from .options import DEFAULT_STORE, Debug, Device, DtypeOption, Json, Model, Store
from .output import errors, print_json, say, say_error

if TYPE_CHECKING:
    from ...rag import Answer, Answerer, Message

NAME = "chat"
SHORT_HELP = "Ask one question after another; each may lean on those before it."


def command(
    store: Store = DEFAULT_STORE,
    passages: Annotated[int, typer.Option("--passages", min=1, help="How many passages are read.")] = 8,
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
    """Ask one question after another; each may lean on those before it.

    Reads a question per line from the terminal or from a pipe, and answers as decant ask does. An empty line starts
    a new conversation, the end of the input ends it.
    """
    with open_index(store, model, device, dtype, debug=debug) as (opened, encoder):
        from ...rag import AnswerRules

        rules = AnswerRules(passages=passages)
        _talk(
            make_answerer(opened, encoder, rules, generator, generator_model, draft, device, kv_reuse), as_json=as_json
        )


def _talk(answerer: Answerer, *, as_json: bool) -> None:
    from ...embedder.errors import DecantError
    from ...rag import Message

    history: list[Message] = []
    while (question := _next_question()) is not None:
        if not question:
            history.clear()
            continue
        try:
            answer = _answer(answerer, question, history, as_json=as_json)
        except DecantError as error:
            # The next question may be answered all the same.
            say_error(str(error))
            continue
        history += [Message("user", question), Message("assistant", answer.text)]


def _answer(answerer: Answerer, question: str, history: list[Message], *, as_json: bool) -> Answer:
    pieces = answerer.stream(question, history=history)
    if as_json:
        *_, answer = pieces
        print_json(asdict(answer))  # pyright: ignore[reportArgumentType]  (the last piece is the answer)
        return answer  # pyright: ignore[reportReturnType]
    shown = show_answer(next(pieces), pieces)
    if shown.query != shown.question:
        say(f"searched for: {shown.query}")
    return shown


def _next_question() -> str | None:
    """A line without the white space around it; None at the end."""
    if sys.stdin.isatty():
        errors().print("\n> ", end="")
    line = sys.stdin.readline()
    return line.strip() if line else None
