"""The routes of text-embeddings-inference, with its defaults: texts are cut where they are too long, vectors are unit.

What was cut is named in the header `x-decant-truncated`: the numbers of the texts, from 0.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.responses import Response

from ...embedder import InputError
from ..caller import Caller
from ..engine import DENSE, SPARSE, STATES, EmbedOptions, Encoded
from ..errors import NotOffered
from ..models import Embedded, Models, ServedModel
from ..reranking import cosine, encoded
from ..tokens import decode, simple_tokens
from .door import Door
from .shapes import json_response

Direction = Literal["Right", "Left", "right", "left"]
_MANY = 16


class EmbedBody(BaseModel):
    """TEI's request."""

    model_config = ConfigDict(extra="ignore")

    inputs: StrictStr | list[StrictStr] | list[StrictInt] | list[list[StrictInt]]
    truncate: bool | None = None
    truncation_direction: Direction = "Right"
    prompt_name: str | None = None
    normalize: bool = True
    dimensions: int | None = None


class Sentences(BaseModel):
    """What `SimilarityBody` compares."""

    source_sentence: StrictStr
    sentences: list[StrictStr] = Field(min_length=1)


class SimilarityParameters(BaseModel):
    """How."""

    truncate: bool | None = None
    prompt_name: str | None = None


class SimilarityBody(BaseModel):
    """TEI's request."""

    inputs: Sentences
    parameters: SimilarityParameters = SimilarityParameters()


class TokenizeBody(BaseModel):
    """TEI's request."""

    inputs: StrictStr | list[StrictStr]
    add_special_tokens: bool = True
    prompt_name: str | None = None


class DecodeBody(BaseModel):
    """TEI's request."""

    ids: list[StrictInt] | list[list[StrictInt]]
    skip_special_tokens: bool = True


def tei_routes(door: Door, models: Models) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["text-embeddings-inference"])
    model = models.default

    def encode_as(output: str, write: Callable[[list[Encoded]], object], name: str):  # noqa: ANN202 -- FastAPI reads it
        async def route(body: EmbedBody, request: Request) -> Response:
            async def work(caller: Caller) -> Response:
                began = time.monotonic()
                texts = await asyncio.to_thread(_texts, body, model)
                made = await model.embed(texts, _options(body, output), caller)
                items = encoded(made)
                headers = _headers(texts, items, made, time.monotonic() - began)
                if len(items) > _MANY or output is not DENSE:
                    return await asyncio.to_thread(lambda: json_response(write(items), headers=headers))
                return json_response(write(items), headers=headers)

            return await door.serve(request, name, work, model=model.name)

        return route

    embed = encode_as(DENSE, lambda items: [item.vector for item in items], "embed")
    router.add_api_route("/embed", embed, methods=["POST"], summary="Texts to vectors", name="embed")
    for alias in ("/", "/invocations"):
        router.add_api_route(alias, embed, methods=["POST"], include_in_schema=False, name="embed")
    sparse = encode_as(SPARSE, _terms, "embed_sparse")
    router.add_api_route("/embed_sparse", sparse, methods=["POST"], summary="Texts to weighted terms", name="sparse")
    states = encode_as(STATES, lambda items: [item.states for item in items], "embed_all")
    router.add_api_route("/embed_all", states, methods=["POST"], summary="Texts to a vector per token", name="all")

    @router.post("/similarity", summary="How alike sentences are to one")
    async def similarity(body: SimilarityBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            given = body.inputs
            options = EmbedOptions(
                kind=body.parameters.prompt_name or "document",
                truncate="error" if body.parameters.truncate is False else "end",
                normalize=True,
            )
            made = await model.embed([given.source_sentence, *given.sentences], options, caller)
            source, *others = encoded(made)
            return json_response([cosine(source, other) for other in others])

        return await door.serve(request, "similarity", work, model=model.name)

    @router.post("/tokenize", summary="How the model sees texts")
    async def tokenize(body: TokenizeBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            del caller
            texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
            model.check_count(len(texts))
            return json_response(await asyncio.to_thread(_tokens, model, texts, body))

        return await door.serve(request, "tokenize", work, model=model.name)

    @router.post("/decode", summary="Token ids to text")
    async def decode_ids(body: DecodeBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            del caller
            rows = _rows(body.ids)
            skip = body.skip_special_tokens
            return json_response([decode(model.encoder, row, skip_special=skip) for row in rows])

        return await door.serve(request, "decode", work, model=model.name)

    router.add_api_route("/predict", _refusal(door, "/predict"), methods=["POST"], include_in_schema=False)

    @router.get("/info", summary="What is served and within which limits")
    async def info(request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            del caller
            return json_response(_info(model))

        return await door.serve(request, "info", work)

    return router


def _refusal(door: Door, path: str):  # noqa: ANN202 -- FastAPI reads the inner function's signature
    async def refuse(request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            del caller
            raise NotOffered(f"the model served here does not offer {path}")

        return await door.serve(request, path.lstrip("/"), work)

    return refuse


def _terms(items: list[Encoded]) -> list[list[dict[str, object]]]:
    rows = [item.sparse for item in items if item.sparse is not None]
    return [
        [
            {"index": term, "value": weight}
            for term, weight in zip(row.terms.tolist(), row.weights.tolist(), strict=True)
        ]
        for row in rows
    ]


def _options(body: EmbedBody, output: str) -> EmbedOptions:
    if body.truncation_direction.lower() == "left":
        raise InputError("texts are cut at their end only: leave truncation_direction out")
    return EmbedOptions(
        kind=body.prompt_name or "document",
        dimensions=body.dimensions,
        truncate="error" if body.truncate is False else "end",
        normalize=body.normalize if output is DENSE else None,
        outputs=(output,),
    )


def _texts(body: EmbedBody, model: ServedModel) -> list[str]:
    if isinstance(body.inputs, str):
        return [body.inputs]
    texts = [item for item in body.inputs if isinstance(item, str)]
    return texts or [decode(model.encoder, row) for row in _rows(body.inputs)]


def _rows(ids: object) -> list[list[int]]:
    """One row or several, as several."""
    rows = ids if isinstance(ids, list) else []
    if rows and isinstance(rows[0], int):
        rows = [rows]
    return [list(row) for row in rows]


def _headers(texts: list[str], items: list[Encoded], made: Embedded, seconds: float) -> dict[str, str]:
    def milliseconds(value: float) -> str:
        return str(round(value * 1000))

    headers = {
        "x-compute-characters": str(sum(map(len, texts))),
        "x-compute-tokens": str(made.tokens),
        "x-total-time": milliseconds(seconds),
        "x-tokenization-time": milliseconds(made.tokenize_seconds),
        "x-queue-time": milliseconds(made.queue_seconds),
        "x-inference-time": milliseconds(made.encode_seconds),
    }
    if cut := [str(index) for index, item in enumerate(items) if item.truncated]:
        headers["x-decant-truncated"] = ",".join(cut)
    return headers


def _tokens(model: ServedModel, texts: list[str], body: TokenizeBody) -> list[list[dict[str, object]]]:
    return [
        [
            {"id": t.id, "text": t.text, "special": t.special, "start": t.start, "stop": t.stop}
            for t in simple_tokens(model.encoder, text, body.prompt_name, special=body.add_special_tokens)
        ]
        for text in texts
    ]


def _info(model: ServedModel) -> dict[str, object]:
    limits = model.queue.limits
    return {
        "model_id": model.name,
        "model_sha": model.encoder.fingerprint,
        "model_dtype": model.dtype,
        "served_model_name": model.name,
        "model_type": {"embedding": {"pooling": str(model.encoder.spec.pooling)}},
        "max_concurrent_requests": limits.queued_requests,
        "max_input_length": model.encoder.max_tokens,
        "max_batch_tokens": limits.batch_tokens,
        "max_batch_requests": None,
        "max_client_batch_size": model.max_texts,
        "auto_truncate": True,
        "tokenization_workers": 2,
        "version": version("decant"),
        "sha": None,
        "docker_label": None,
    }
