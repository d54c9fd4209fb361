"""The application: routes, the size limit, and errors that arise before a route is reached."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import version

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..backend import Backend
from .asking import ask_routes
from .chat import chat_routes
from .documents import document_routes
from .door import Door
from .openai import openai_routes
from .own import own_routes
from .reranking import rerank_routes
from .responses import responses_routes
from .shapes import Shape, json_response, openai_error, shape_of
from .tei import tei_routes
from .web import web_routes


def make_app(backend: Backend, *, healthy: Callable[[], Awaitable[bool]]) -> FastAPI:
    """Put the application together; `healthy` asks the encoders and knows whether the server is leaving."""
    # The interactive pages would fetch their scripts from elsewhere; /openapi.json is the description.
    app = FastAPI(title="Decant", version=version("decant"), docs_url=None, redoc_url=None)
    door = Door(backend)
    app.include_router(openai_routes(door, backend.models))
    app.include_router(chat_routes(door, backend))
    app.include_router(responses_routes(door, backend))
    app.include_router(rerank_routes(door, backend.models))
    app.include_router(tei_routes(door, backend.models))
    app.include_router(own_routes(door, backend, healthy))
    app.include_router(ask_routes(door, backend))
    app.include_router(document_routes(door, backend))
    app.include_router(web_routes(door, backend))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_middleware(BodyLimit, max_bytes=backend.settings.max_message_bytes)
    return app


class BodyLimit:
    """Refuses bodies that are too large, before or while they are read."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with its body counted."""
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._max_bytes:
                raise self._too_large()
            return message

        if scope["type"] == "http" and _declared_bytes(scope) > self._max_bytes:
            response = _error(scope["path"], 413, str(self._too_large().detail))
            await response(scope, receive, send)
            return
        await self._app(scope, counted, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the request has more than {self._max_bytes:,} bytes: send fewer texts at once")


def _declared_bytes(scope: Scope) -> int:
    for name, value in scope["headers"]:
        if name == b"content-length" and value.isdigit():
            return int(value)
    return 0


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    path = request.url.path
    status = 422 if shape_of(path) is Shape.TEI else 400
    if first["type"] == "json_invalid":
        why = f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return _error(path, status, why)
    place = [str(part) for part in first["loc"][1:]]
    if not place and isinstance(first.get("input"), bytes):
        return _error(path, status, "the body is not read as JSON: send it with 'content-type: application/json'")
    name = ".".join(place[:1]) or "body"
    return _error(path, status, f"{name}: {first['msg']}", param=name)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method, headers = request.url.path, request.method, dict(error.headers or {})
    message = {
        404: f"no such route: {path}",
        405: f"{method} is not taken at {path}: use {headers.get('Allow', 'another method')}",
    }.get(error.status_code, str(error.detail))
    return _error(path, error.status_code, message, headers=headers)


def _error(
    path: str, status: int, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    headers = {"x-should-retry": "false", **(headers or {})}
    if shape_of(path) is Shape.TEI:
        return json_response({"error": message, "error_type": "Validation"}, status=status, headers=headers)
    return openai_error(message, status, param=param, headers=headers)
