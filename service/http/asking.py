"""Answers over HTTP in our own shape: /ask, whole or as server-sent events, for the web page and plain clients."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Literal

import orjson
from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.responses import Response

from ...rag import Answer, Citation, Message
from ..asking import Question
from ..backend import Backend
from ..caller import Caller
from ..failures import message_of
from .door import Door
from .shapes import json_response


class TurnBody(BaseModel):
    """What was said before."""

    role: Literal["user", "assistant"]
    text: StrictStr


class AskBody(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    question: StrictStr
    history: list[TurnBody] = []
    k: int | None = Field(None, ge=1, le=1000, description="Passages to read; the server's choice if absent")
    filter: str | None = Field(None, description="As in /search")
    store: str = ""
    stream: bool = Field(False, description="Events `text` (a piece) and, last, `answer` (all of it)")


def ask_routes(door: Door, backend: Backend) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["Decant"])

    @router.post("/ask", summary="Questions to answers with citations")
    async def ask(body: AskBody, request: Request) -> Response:
        question = Question(
            body.question, tuple(Message(turn.role, turn.text) for turn in body.history), body.k, body.filter
        )

        async def whole(caller: Caller) -> Response:
            store = await backend.stores.get(body.store, caller.tenant)
            return json_response(answer_body(await backend.asking.answer(question, store, caller)))

        async def pieces(caller: Caller) -> AsyncGenerator[bytes]:
            store = await backend.stores.get(body.store, caller.tenant)
            begun = False
            try:
                async with aclosing(backend.asking.stream(question, store, caller)) as parts:
                    async for part in parts:
                        begun = True
                        if isinstance(part, str):
                            yield event({"text": part}, "text")
                        else:
                            yield event(answer_body(part), "answer")
            except Exception as error:
                if not begun:
                    raise
                yield event({"error": {"message": message_of(error, caller.request_id)}}, "error")

        if body.stream:
            return await door.stream(request, "ask", pieces, scope="ask")
        return await door.serve(request, "ask", whole, scope="ask")

    return router


def event(data: object, name: str = "") -> bytes:
    """One server-sent event."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + orjson.dumps(data, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n\n"


def answer_body(answer: Answer) -> dict[str, object]:
    """The whole answer as JSON has it."""
    return {
        "question": answer.question,
        "text": answer.text,
        "grounded": answer.grounded,
        "generator": answer.generator,
        "note": answer.note,
        "confidence": answer.confidence,
        "citations": [citation_body(citation) for citation in answer.citations],
    }


def citation_body(citation: Citation) -> dict[str, object]:
    """A citation: `text` is what the document holds at [start_char, end_char), in Unicode code points."""
    return {
        "number": citation.number,
        "doc_id": citation.doc_id,
        "path": citation.path,
        "title": citation.title,
        "start_char": citation.start_char,
        "end_char": citation.end_char,
        "text": citation.text,
        "score": float(citation.score),
    }
