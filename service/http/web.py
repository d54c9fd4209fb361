"""The web page at /, and under /ui/api what it shows that no other door has; its questions go to /ask."""

from __future__ import annotations

import time
from dataclasses import asdict
from importlib.metadata import version
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import Response

from ...index import Hit
from ..backend import Backend
from ..caller import Caller
from ..cli.snippet import snippet_of
from ..search import Query, SearchService
from ..web.assets import PAGE, Asset, load_assets
from ..web.corpus_map import CorpusMaps
from ..web.excerpt import excerpt_of
from ..web.projection import Method
from ..web.status import StoreFacts, status_of
from .door import Door
from .shapes import json_response

_TERMS = 24


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")

    query: str
    store: str = ""


class SearchBody(_Body):
    """A question to one mode; errors and limits as of /search."""

    mode: Literal["dense", "sparse", "lexical", "hybrid"]
    k: int = Field(10, ge=1, le=100)
    filter: str | None = None


def web_routes(door: Door, backend: Backend) -> APIRouter:
    """The routes; the page's files need no key, what they show does."""
    router = APIRouter(include_in_schema=False)
    router.include_router(_files())
    router.include_router(_data(door, backend))
    return router


def _files() -> APIRouter:
    router = APIRouter()
    assets = load_assets()

    @router.api_route("/", methods=["GET", "HEAD"])
    async def page(request: Request) -> Response:
        return _sent(assets[PAGE], request)

    @router.api_route("/ui/{name}", methods=["GET", "HEAD"])
    async def file(name: str, request: Request) -> Response:
        if name not in assets:
            return json_response({"error": {"message": f"the page has no file {name[:100]!r}"}}, status=404)
        return _sent(assets[name], request)

    return router


def _sent(asset: Asset, request: Request) -> Response:
    if request.headers.get("if-none-match") == asset.etag:
        return Response(status_code=304, headers=asset.headers)
    return Response(asset.body, headers=asset.headers, media_type=asset.media)


def _data(door: Door, backend: Backend) -> APIRouter:
    router = APIRouter(prefix="/ui/api")
    maps, facts = CorpusMaps(), StoreFacts()

    @router.get("/status")
    async def status(request: Request, store: str = "") -> Response:
        async def work(caller: Caller) -> Response:
            names = backend.stores.names(caller.tenant)
            service = await backend.stores.get(store, caller.tenant) if names or store else None
            info = await service.on_thread(lambda: facts.of(service.store), caller) if service else None
            return json_response(
                {
                    "version": version("decant"),
                    "stores": names,
                    "store": service.name if service else "",
                    **status_of(service, info, backend.models),
                }
            )

        return await door.serve(request, "ui/status", work, scope="search")

    @router.post("/search")
    async def search(body: SearchBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            service = await backend.stores.get(body.store, caller.tenant)
            began = time.perf_counter()
            found = await service.search(Query(body.query, body.mode, body.k, body.filter), caller)
            milliseconds = round((time.perf_counter() - began) * 1000, 1)
            hits = [_hit(rank, hit, body.query) for rank, hit in enumerate(found.hits, start=1)]
            return json_response({"mode": body.mode, "milliseconds": milliseconds, "hits": hits})

        return await door.serve(request, "ui/search", work, scope="search")

    @router.post("/terms")
    async def terms(body: _Body, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            service = await backend.stores.get(body.store, caller.tenant)
            return json_response({"terms": await service.on_thread(lambda: _terms(service, body.query), caller)})

        return await door.serve(request, "ui/terms", work, scope="search")

    @router.get("/source")
    async def source(request: Request, doc_id: str, start: int, end: int, store: str = "") -> Response:
        async def work(caller: Caller) -> Response:
            found = await (await backend.stores.get(store, caller.tenant)).document(doc_id, caller)
            document = {
                "doc_id": found.doc_id,
                "title": found.title,
                "path": found.path,
                "media": found.media,
                "metadata": dict(found.metadata),
                "characters": len(found.text),
            }
            return json_response({**document, **asdict(excerpt_of(found.text, start, end))})

        return await door.serve(request, "ui/source", work, scope="search")

    @router.get("/map")
    async def corpus_map(request: Request, method: Method = "pca", store: str = "") -> Response:
        async def work(caller: Caller) -> Response:
            service = await backend.stores.get(store, caller.tenant)
            return Response(await maps.get(service, method, caller), media_type="application/json")

        return await door.serve(request, "ui/map", work, scope="search")

    return router


def _hit(rank: int, hit: Hit, query: str) -> dict[str, object]:
    snippet = snippet_of(hit.chunk.text, query)
    pieces: list[tuple[str, bool]] = []
    at = 0
    for start, end in snippet.marked:
        pieces += [(snippet.text[at:start], False), (snippet.text[start:end], True)]
        at = end
    pieces.append((snippet.text[at:], False))
    return {
        "rank": rank,
        "score": hit.score,
        "doc_id": hit.chunk.doc_id,
        "ordinal": hit.chunk.ordinal,
        "path": hit.path,
        "title": hit.title,
        "start_char": hit.chunk.start_char,
        "end_char": hit.chunk.end_char,
        "snippet": [piece for piece in pieces if piece[0]],
    }


def _terms(service: SearchService, query: str) -> list[tuple[str, float]]:
    """The heaviest terms of a query, on a worker thread."""
    sparse = service.encoder.encode([query], kind="query", outputs=("sparse",)).sparse
    assert sparse is not None, "asked for"
    [found] = service.model.encoder.terms(sparse, _TERMS)
    return found
