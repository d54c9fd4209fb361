"""Our own routes: /search, /stores, /models, /health and /metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ...index import Hit
from ..backend import Backend
from ..caller import Caller
from ..metrics import CONTENT_TYPE
from ..search import Query
from .door import Door
from .shapes import json_response


class SearchBody(BaseModel):
    """A question."""

    model_config = ConfigDict(extra="forbid")

    query: str
    mode: str = Field("hybrid", description="dense, sparse, lexical, router, moee, some with + between, or hybrid")
    k: int = Field(10, ge=1, le=10_000)
    filter: str | None = Field(None, description="Conditions in SQL on doc_id, path, title, media, metadata.<name>")
    exact: bool = Field(False, description="Compare every vector, even where an accelerator exists")
    router_weight: float = Field(
        1.0, ge=0, allow_inf_nan=False, description="Weight of the router vectors in mode moee: cos + this x cos"
    )
    store: str = Field("", description="Which store; the first that the caller may read if empty")


def own_routes(door: Door, backend: Backend, healthy: Callable[[], Awaitable[bool]]) -> APIRouter:
    """The routes; `healthy` asks the encoder and knows whether the server is leaving."""
    router = APIRouter(tags=["Decant"])

    @router.post("/search", summary="Questions to passages")
    async def find(body: SearchBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            store = await backend.stores.get(body.store, caller.tenant)
            found = await store.search(
                Query(body.query, body.mode, body.k, body.filter, body.exact, body.router_weight), caller
            )
            hits = [hit_body(rank, hit) for rank, hit in enumerate(found.hits, start=1)]
            return json_response({"query": body.query, "mode": body.mode, "hits": hits})

        return await door.serve(request, "search", work, scope="search", model=backend.models.default.name)

    @router.get("/stores", summary="What can be searched")
    async def stores(request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            return json_response({"stores": backend.stores.names(caller.tenant)})

        return await door.serve(request, "stores", work, scope="search")

    @router.post("/models/{name}/load", summary="Load a model that the configuration names")
    async def load(name: str, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            del caller
            await backend.models.load(name)
            return json_response({"name": name, "loaded": True})

        return await door.serve(request, "models/load", work, scope="admin")

    @router.post("/models/{name}/unload", summary="Let a model finish, and free its memory")
    async def unload(name: str, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            del caller
            await backend.models.unload(name)
            return json_response({"name": name, "loaded": False})

        return await door.serve(request, "models/unload", work, scope="admin")

    @router.get("/health", summary="Whether the encoder computes")
    async def health() -> Response:
        if await healthy():
            return Response(status_code=200)
        body = {"error": "the encoder does not answer, or the server is leaving", "error_type": "Unhealthy"}
        return json_response(body, status=503, headers={"retry-after": "1"})

    @router.get("/ping", include_in_schema=False)
    async def ping() -> Response:
        return await health()

    @router.get("/metrics", summary="Prometheus metrics")
    async def read_metrics() -> Response:
        return Response(backend.metrics.text(), media_type=CONTENT_TYPE)

    return router


def hit_body(rank: int, hit: Hit) -> dict[str, object]:
    """One result as JSON has it."""
    return {
        "rank": rank,
        "score": hit.score,
        "doc_id": hit.chunk.doc_id,
        "path": hit.path,
        "title": hit.title,
        "start_char": hit.chunk.start_char,
        "end_char": hit.chunk.end_char,
        "text": hit.chunk.text,
        "metadata": dict(hit.metadata),
        "ranks": dict(hit.ranks),
    }
