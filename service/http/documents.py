"""Documents in and out over HTTP."""

from __future__ import annotations

from collections.abc import Mapping

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr
from starlette.responses import Response

from ...index import Document
from ..backend import Backend
from ..caller import Caller
from .door import Door
from .shapes import json_response


class DocumentBody(BaseModel):
    """A document; one with the same `doc_id` takes its place."""

    model_config = ConfigDict(extra="forbid")

    doc_id: StrictStr = Field(min_length=1)
    text: StrictStr
    title: StrictStr = ""
    path: StrictStr = ""
    media: StrictStr = Field("text", description="text, markdown, html, code:python ...: decides where it is cut")
    metadata: Mapping[str, StrictBool | StrictInt | StrictFloat | StrictStr] = {}


class DocumentsBody(BaseModel):
    """Documents to be stored."""

    model_config = ConfigDict(extra="forbid")

    documents: list[DocumentBody] = Field(min_length=1)
    store: str = ""


class DeleteBody(BaseModel):
    """Documents to be removed."""

    model_config = ConfigDict(extra="forbid")

    doc_ids: list[StrictStr] = Field(min_length=1)
    store: str = ""


def document_routes(door: Door, backend: Backend) -> APIRouter:
    """The routes."""
    router = APIRouter(tags=["Decant"])

    @router.post("/documents", summary="Add documents, each in place of what its id held before")
    async def put(body: DocumentsBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            store = await backend.stores.get(body.store, caller.tenant, write=True)
            documents = [Document(**given.model_dump()) for given in body.documents]
            written = await store.write(documents, caller)
            return json_response({"stored": written.stored, "unchanged": written.unchanged})

        return await door.serve(request, "documents", work, scope="index")

    @router.post("/documents/delete", summary="Remove documents")
    async def delete(body: DeleteBody, request: Request) -> Response:
        async def work(caller: Caller) -> Response:
            store = await backend.stores.get(body.store, caller.tenant, write=True)
            return json_response({"removed": await store.delete(body.doc_ids)})

        return await door.serve(request, "documents/delete", work, scope="index")

    @router.get("/documents/{doc_id:path}", summary="A whole document, as it was stored")
    async def get(doc_id: str, request: Request, store: str = "") -> Response:
        async def work(caller: Caller) -> Response:
            found = await (await backend.stores.get(store, caller.tenant)).document(doc_id, caller)
            return json_response(
                {
                    "doc_id": found.doc_id,
                    "text": found.text,
                    "title": found.title,
                    "path": found.path,
                    "media": found.media,
                    "metadata": dict(found.metadata),
                }
            )

        return await door.serve(request, "documents/get", work, scope="search")

    return router
