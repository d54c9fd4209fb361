"""/v1/responses: answers from the index in OpenAI's newer shape, with `file_citation` annotations.

Nothing is kept between calls, so `previous_response_id` is refused: send the conversation as `input`. A `file_search`
tool may name the store (`vector_store_ids`) and how many passages to read (`max_num_results`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ...embedder import InputError
from ...rag import Answer
from ..asking import Question
from ..backend import Backend
from ..caller import Caller
from ..failures import failure_of, message_of
from ..search import SearchService
from .asking import event
from .conversation import SearchOptions, Turn, marks_in, question_of, source_of
from .door import Door
from .shapes import json_response


class Tool(BaseModel):
    """OpenAI's `file_search`."""

    model_config = ConfigDict(extra="ignore")

    type: str
    vector_store_ids: list[str] = []
    max_num_results: int | None = Field(None, ge=1, le=1000)


class ResponsesBody(BaseModel):
    """OpenAI's request; what steers a generator is passed over. `search` is ours."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    input: str | list[Turn]
    model: str = ""
    stream: bool = False
    tools: list[Tool] = []
    include: list[str] | None = None
    previous_response_id: str | None = None
    search: SearchOptions = SearchOptions()


def responses_routes(door: Door, backend: Backend) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["OpenAI"])

    async def begin(body: ResponsesBody, caller: Caller) -> tuple[Question, SearchService]:
        if body.previous_response_id is not None:
            raise InputError("this server keeps no conversations: leave previous_response_id out and send all of input")
        backend.models.get(body.model)
        options = _options(body)
        turns = [Turn(role="user", content=body.input)] if isinstance(body.input, str) else body.input
        return question_of(turns, options), await backend.stores.get(options.store, caller.tenant)

    @router.post("/v1/responses", summary="Questions to answers that cite files")
    async def respond(body: ResponsesBody, request: Request) -> Response:
        async def whole(caller: Caller) -> Response:
            question, store = await begin(body, caller)
            shape = _Shape(caller, store.model.name)
            answer = await backend.asking.answer(question, store, caller)
            return json_response(shape.response("completed", shape.output(answer), answer))

        async def pieces(caller: Caller) -> AsyncGenerator[bytes]:
            question, store = await begin(body, caller)
            shape = _Shape(caller, store.model.name)
            begun = False
            try:
                async with aclosing(backend.asking.stream(question, store, caller)) as parts:
                    async for part in parts:
                        if not begun:
                            begun = True
                            for data in shape.opening():
                                yield data
                        for data in [shape.delta(part)] if isinstance(part, str) else shape.closing(part):
                            yield data
            except Exception as error:
                if not begun:
                    raise
                for data in shape.failure(error):
                    yield data

        if body.stream:
            return await door.stream(request, "v1/responses", pieces, scope="ask")
        return await door.serve(request, "v1/responses", whole, scope="ask")

    return router


def _options(body: ResponsesBody) -> SearchOptions:
    for tool in body.tools:
        if tool.type != "file_search":
            raise InputError(f"this server has no tool {tool.type[:40]!r}: only file_search")
        return SearchOptions(
            store=next(iter(tool.vector_store_ids), body.search.store),
            k=tool.max_num_results or body.search.k,
            filter=body.search.filter,
        )
    return body.search


class _Shape:
    """One response's objects and events; `sequence_number` counts the latter."""

    def __init__(self, caller: Caller, model: str) -> None:
        self._caller = caller
        self._id = f"resp_{caller.request_id}"
        self._item = f"msg_{caller.request_id}"
        self._model = model
        self._created = int(time.time())
        self._number = 0
        self._place = {"item_id": self._item, "output_index": 0, "content_index": 0}

    def response(
        self, status: str, output: list[dict[str, Any]], answer: Answer | None = None, error: object = None
    ) -> dict[str, Any]:
        """The whole response."""
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "model": self._model,
            "status": status,
            "error": error,
            "incomplete_details": None,
            "instructions": None,
            "metadata": {},
            "output": output,
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "temperature": None,
            "tool_choice": "auto",
            "tools": [],
            "top_p": None,
            "usage": None if answer is None else _usage(answer),
        }

    def output(self, answer: Answer) -> list[dict[str, Any]]:
        """What was said."""
        return [self._message("completed", [_text(answer)], answer)]

    def opening(self) -> list[bytes]:
        """Events before the first piece."""
        begun = self.response("in_progress", [])
        empty = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        return [
            self._event("response.created", response=begun),
            self._event("response.in_progress", response=begun),
            self._event("response.output_item.added", output_index=0, item=self._message("in_progress", [])),
            self._event("response.content_part.added", **self._place, part=empty),
        ]

    def delta(self, piece: str) -> bytes:
        """A piece of the text."""
        return self._event("response.output_text.delta", **self._place, delta=piece, logprobs=[])

    def closing(self, answer: Answer) -> list[bytes]:
        """Events behind the last piece."""
        part = _text(answer)
        noted = [
            self._event(
                "response.output_text.annotation.added", **self._place, annotation_index=i, annotation=annotation
            )
            for i, annotation in enumerate(part["annotations"])
        ]
        return [
            *noted,
            self._event("response.output_text.done", **self._place, text=answer.text, logprobs=[]),
            self._event("response.content_part.done", **self._place, part=part),
            self._event("response.output_item.done", output_index=0, item=self._message("completed", [part], answer)),
            self._event("response.completed", response=self.response("completed", self.output(answer), answer)),
        ]

    def failure(self, error: Exception) -> list[bytes]:
        """Events of an answer that broke off."""
        code, message = failure_of(error).code, message_of(error, self._caller.request_id)
        failed = self.response("failed", [], error={"code": code, "message": message})
        return [
            self._event("error", code=code, message=message, param=None),
            self._event("response.failed", response=failed),
        ]

    def _message(self, status: str, content: list[dict[str, Any]], answer: Answer | None = None) -> dict[str, Any]:
        made: dict[str, Any] = {
            "id": self._item,
            "type": "message",
            "role": "assistant",
            "status": status,
            "content": content,
        }
        if answer is not None:
            made["citations"] = [source_of(citation) for citation in answer.citations]
            made["grounded"] = answer.grounded
        return made

    def _event(self, kind: str, **fields: object) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number - 1, **fields}, kind)


def _text(answer: Answer) -> dict[str, Any]:
    files = list(dict.fromkeys(citation.doc_id for citation in answer.citations))
    annotations = [
        {
            "type": "file_citation",
            "file_id": mark.citation.doc_id,
            "filename": mark.citation.path or mark.citation.title or mark.citation.doc_id,
            "index": files.index(mark.citation.doc_id),
        }
        for mark in marks_in(answer)
    ]
    return {"type": "output_text", "text": answer.text, "annotations": annotations, "logprobs": []}


def _usage(answer: Answer) -> dict[str, object]:
    used = answer.usage
    return {
        "input_tokens": used.prompt_tokens,
        "input_tokens_details": {"cached_tokens": used.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": used.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": used.prompt_tokens + used.completion_tokens,
    }
