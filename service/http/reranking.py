"""Reranking over HTTP: Cohere's and Jina's shape at /v1/rerank, text-embeddings-inference's at /rerank."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictStr
from starlette.responses import Response

from ...embedder import InputError
from ...embedder.tokenization import Truncate
from ..caller import Caller
from ..models import Models
from .door import Door
from .shapes import json_response


class DocumentBody(BaseModel):
    """A text in an object, as Jina's clients may send it."""

    model_config = ConfigDict(extra="ignore")

    text: StrictStr


class RerankBody(BaseModel):
    """Cohere's and Jina's request; `truncate` is ours."""

    model_config = ConfigDict(extra="ignore")

    query: StrictStr
    documents: list[StrictStr | DocumentBody]
    model: str = ""
    top_n: int | None = Field(None, ge=1)
    return_documents: bool = False
    truncate: Truncate = "end"


class TeiRerankBody(BaseModel):
    """TEI's request."""

    model_config = ConfigDict(extra="ignore")

    query: StrictStr
    texts: list[StrictStr]
    truncate: bool | None = None
    truncation_direction: Literal["Right", "Left", "right", "left"] = "Right"
    raw_scores: bool = False
    return_text: bool = False


def rerank_routes(door: Door, models: Models) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["Rerank"])

    async def rerank(body: RerankBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            reranker = models.reranker(body.model)
            texts = [given if isinstance(given, str) else given.text for given in body.documents]
            scores = await reranker.scores(body.query, texts, body.truncate, caller)
            results = [
                {
                    "index": i,
                    "relevance_score": float(scores.unit[i]),
                    **({"document": {"text": texts[i]}} if body.return_documents else {}),
                    **({"truncated": True} if scores.truncated[i] else {}),
                }
                for i in scores.order(body.top_n)
            ]
            usage = {"total_tokens": scores.tokens, "prompt_tokens": scores.tokens}
            # `meta` is where Cohere's own clients look for what was used.
            meta = {"billed_units": {"search_units": 1}, "tokens": {"input_tokens": scores.tokens}}
            head = {"id": caller.request_id, "model": reranker.name}
            return json_response({**head, "results": results, "usage": usage, "meta": meta})

        return await door.serve(request, "rerank", work, model=models.label(body.model, reranking=True))

    for path in ("/v1/rerank", "/v2/rerank"):
        hidden = path != "/v1/rerank"
        router.add_api_route(
            path, rerank, methods=["POST"], summary="Texts by relevance", include_in_schema=not hidden, name="rerank"
        )

    @router.post("/rerank", summary="Texts by relevance, in TEI's shape")
    async def tei_rerank(body: TeiRerankBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            if body.truncation_direction.lower() == "left":
                raise InputError("texts are cut at their end only: leave truncation_direction out")
            truncate: Truncate = "error" if body.truncate is False else "end"
            scores = await models.reranker("").scores(body.query, body.texts, truncate, caller)
            values = scores.raw if body.raw_scores else scores.unit
            texts = body.texts
            return json_response(
                [
                    {"index": i, "score": float(values[i]), **({"text": texts[i]} if body.return_text else {})}
                    for i in scores.order()
                ]
            )

        return await door.serve(request, "rerank", work, model=models.label("", reranking=True))

    return router
