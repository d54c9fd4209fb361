"""OpenAI-shaped routes: /v1/embeddings and /v1/models."""

from __future__ import annotations

import asyncio
import base64
from typing import Literal

import numpy as np
from fastapi import APIRouter, Request
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr
from starlette.responses import Response

from ...embedder import InputError
from ...embedder.tokenization import Truncate
from ..caller import Caller
from ..engine import EmbedOptions, Encoded
from ..errors import EmptyInput
from ..models import Embedded, Models, ServedModel
from ..tokens import decode
from .door import Door
from .shapes import json_response

# Writing this many vectors as JSON takes milliseconds, which the event loop does not have.
_MANY = 16


class EmbeddingsRequest(BaseModel):
    """OpenAI's request; `kind`, `instruction` and `truncate` are ours."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    input: StrictStr | list[StrictStr] | list[StrictInt] | list[list[StrictInt]] = Field(
        description="A text, texts, or token ids of this very model"
    )
    model: str = ""
    dimensions: int | None = None
    encoding_format: Literal["float", "base64"] = "float"
    user: str | None = None
    kind: str = Field("document", description="Which of the model's prompts goes in front, `query` or `document`")
    instruction: str | None = None
    truncate: Truncate = Field("end", description="What happens to a text that is too long")


def openai_routes(door: Door, models: Models) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/embeddings", summary="Texts to vectors")
    async def embeddings(body: EmbeddingsRequest, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            model = models.get(body.model)
            texts = await _texts(body, model)
            options = EmbedOptions(body.kind, body.instruction, body.dimensions, body.truncate)
            made = await model.embed(texts, options, caller)
            items = _all_encoded(made)
            if len(items) > _MANY:
                return await asyncio.to_thread(_answer, model, items, body.encoding_format)
            return _answer(model, items, body.encoding_format)

        return await door.serve(request, "v1/embeddings", work, model=models.label(body.model))

    @router.get("/v1/models", summary="What is served")
    async def list_models(request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            del caller
            rerankers = [_entry(name) for name in models.rerankers]
            return json_response({"object": "list", "data": [*(_model(model) for model in models), *rerankers]})

        return await door.serve(request, "v1/models", work)

    return router


async def _texts(body: EmbeddingsRequest, model: ServedModel) -> list[str]:
    """The input as texts; token ids are turned back into the text they stand for."""
    given = body.input
    if isinstance(given, str):
        return [given]
    ids: list[list[int]] = []
    texts: list[str] = []
    for item in given:
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, list):
            ids.append(item)
    if given and isinstance(given[0], int):
        ids = [[token for token in given if isinstance(token, int)]]
    if not ids:
        return texts
    return await asyncio.to_thread(lambda: [decode(model.encoder, row) for row in ids])


def _all_encoded(made: Embedded) -> list[Encoded]:
    """Every item; the convention has no place for a text's own error, so the first one fails the call."""
    items: list[Encoded] = []
    for index, item in enumerate(made.items):
        if isinstance(item, EmptyInput):
            raise EmptyInput(f"input[{index}]: {item}")
        if isinstance(item, InputError):
            raise InputError(f"input[{index}]: {item}")
        if not isinstance(item, Encoded):
            raise item
        items.append(item)
    return items


def _answer(model: ServedModel, items: list[Encoded], encoding: Literal["float", "base64"]) -> Response:
    tokens = sum(item.tokens for item in items)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": _base64(item.vector) if encoding == "base64" else np.ascontiguousarray(item.vector),
            **({"truncated": True} if item.truncated else {}),
        }
        for index, item in enumerate(items)
    ]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return json_response({"object": "list", "data": data, "model": model.name, "usage": usage})


def _base64(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4", copy=False).tobytes()).decode()


def _model(model: ServedModel) -> dict[str, object]:
    return {
        **_entry(model.name),
        "fingerprint": model.encoder.fingerprint,
        "dimensions": model.offered_dimensions,
        "max_tokens": model.encoder.max_tokens,
        "kinds": sorted(model.encoder.spec.prompts),
    }


def _entry(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "decant"}
