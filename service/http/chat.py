"""/v1/chat/completions: answers from the index in OpenAI's shape.

`annotations` are the convention's `url_citation`: they point into the answer's text, `end_index` at the last
character of the mark. `citations`, beside them, is ours: the verified place in the document.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from ...rag import Answer
from ..backend import Backend
from ..caller import Caller
from ..failures import failure_of, message_of
from ..search import SearchService
from .asking import event
from .conversation import SearchOptions, Turn, marks_in, question_of, source_of
from .door import Door
from .shapes import json_response


class StreamOptions(BaseModel):
    """OpenAI's."""

    include_usage: bool = False


class ChatBody(BaseModel):
    """OpenAI's request; what steers a generator (temperature and the like) is passed over. `search` is ours."""

    model_config = ConfigDict(extra="ignore", protected_namespaces=())

    messages: list[Turn]
    model: str = ""
    stream: bool = False
    stream_options: StreamOptions | None = None
    search: SearchOptions = SearchOptions()


def chat_routes(door: Door, backend: Backend) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["OpenAI"])

    async def store_of(body: ChatBody, caller: Caller) -> SearchService:
        backend.models.get(body.model)
        return await backend.stores.get(body.search.store, caller.tenant)

    @router.post("/v1/chat/completions", summary="Conversations to answers with citations")
    async def chat(body: ChatBody, request: Request) -> Response:
        async def whole(caller: Caller) -> Response:
            question = question_of(body.messages, body.search)
            store = await store_of(body, caller)
            answer = await backend.asking.answer(question, store, caller)
            message = {"role": "assistant", "content": answer.text, "refusal": None, **_extras(answer)}
            choice = {"index": 0, "message": message, "finish_reason": "stop", "logprobs": None}
            head = _head(caller, "chat.completion", store.model.name)
            return json_response({**head, "choices": [choice], "usage": _usage(answer)})

        async def pieces(caller: Caller) -> AsyncGenerator[bytes]:
            question = question_of(body.messages, body.search)
            store = await store_of(body, caller)
            head = _head(caller, "chat.completion.chunk", store.model.name)
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            begun = False
            try:
                async with aclosing(backend.asking.stream(question, store, caller)) as parts:
                    async for part in parts:
                        if not begun:
                            begun = True
                            yield _chunk(head, {"role": "assistant", "content": ""})
                        if isinstance(part, str):
                            yield _chunk(head, {"content": part})
                        else:
                            yield _chunk(head, _extras(part), "stop")
                            if with_usage:
                                yield event({**head, "choices": [], "usage": _usage(part)})
                yield b"data: [DONE]\n\n"
            except Exception as error:
                if not begun:
                    raise
                failure = failure_of(error)
                message = message_of(error, caller.request_id)
                yield event({"error": {"message": message, "type": failure.kind, "code": failure.code, "param": None}})

        if body.stream:
            return await door.stream(request, "v1/chat/completions", pieces, scope="ask")
        return await door.serve(request, "v1/chat/completions", whole, scope="ask")

    return router


def _head(caller: Caller, kind: str, model: str) -> dict[str, object]:
    return {"id": f"chatcmpl-{caller.request_id}", "object": kind, "created": int(time.time()), "model": model}


def _chunk(head: dict[str, object], delta: dict[str, object], finish: str | None = None) -> bytes:
    return event({**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})


def _extras(answer: Answer) -> dict[str, object]:
    annotations = [
        {
            "type": "url_citation",
            "url_citation": {
                "start_index": mark.start,
                "end_index": mark.end - 1,
                "title": mark.citation.title or mark.citation.path,
                "url": mark.citation.path or mark.citation.doc_id,
            },
        }
        for mark in marks_in(answer)
    ]
    citations = [source_of(citation) for citation in answer.citations]
    return {"annotations": annotations, "citations": citations, "grounded": answer.grounded}


def _usage(answer: Answer) -> dict[str, object]:
    used = answer.usage
    return {
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": used.cached_tokens},
    }
