"""What every HTTP route does on the way in and out; the twin of the gRPC door."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import ExitStack, aclosing

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ...embedder import InputError
from ..backend import Backend
from ..caller import Caller, deadline_in, request_id_from
from ..keys import Scope
from .shapes import error_response, shape_of

_log = logging.getLogger(__name__)
TIMEOUT_HEADER = "x-decant-timeout-ms"
# What nginx writes into its log for a client that went away; nobody receives it.
_GONE = 499


class Door:
    """The way in."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._timeout = backend.settings.request_seconds

    async def serve(
        self,
        request: Request,
        method: str,
        work: Callable[[Caller], Awaitable[Response]],
        *,
        scope: Scope = "embed",
        model: str = "",
    ) -> Response:
        """Admit a call, do the work, and give it up when the client goes away.

        Args:
            request: whose body has been read.
            method: what metrics call it.
            work: makes the answer; what it raises becomes an error of the route's convention.
            scope: what the key must be good for.
            model: whose metrics it counts for.
        """
        with self._backend.tracer.span(f"http.{method}", request.headers) as span:
            began = time.monotonic()
            caller = Caller("", None, request_id_from(request.headers.get("x-request-id")))
            try:
                caller = self._admitted(request, scope, caller.request_id)
                response = await _unless_gone(request, work(caller))
            except Exception as error:
                response = self._failed(request, method, error, caller)
            response.headers["x-request-id"] = caller.request_id
            status = response.status_code
            span.set_attributes({"http.response.status_code": status, "decant.request_id": caller.request_id})
            self._record(method, model, status, caller, began)
            return response

    async def stream(
        self,
        request: Request,
        method: str,
        work: Callable[[Caller], AsyncGenerator[bytes]],
        *,
        scope: Scope,
        model: str = "",
    ) -> Response:
        """Admit a call whose answer is a stream of server-sent events.

        What fails before the first event is answered with a status of its own; `work` itself makes an event of what
        fails afterwards. When the client goes away, `work` is closed.
        """
        with ExitStack() as stack:
            span = stack.enter_context(self._backend.tracer.span(f"http.{method}", request.headers))
            began = time.monotonic()
            caller = Caller("", None, request_id_from(request.headers.get("x-request-id")))

            def ended(status: int) -> None:
                facts = {"http.response.status_code": status, "decant.request_id": caller.request_id}
                span.set_attributes(facts)
                self._record(method, model, status, caller, began)

            try:
                caller = self._admitted(request, scope, caller.request_id)
                events = work(caller)
                first = await anext(events, b"")
            except Exception as error:
                response = self._failed(request, method, error, caller)
                response.headers["x-request-id"] = caller.request_id
                ended(response.status_code)
                return response
            # The span lasts as long as the stream.
            until_sent = stack.pop_all()

        async def body() -> AsyncGenerator[bytes]:
            status = _GONE
            with until_sent:
                try:
                    async with aclosing(events):
                        yield first
                        async for event in events:
                            yield event
                    status = 200
                finally:
                    ended(status)

        headers = {"x-request-id": caller.request_id, "cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(body(), media_type="text/event-stream", headers=headers)

    def _admitted(self, request: Request, scope: Scope, request_id: str) -> Caller:
        tenant = self._backend.keys.admit(request.headers.get("authorization"), scope)
        deadline = deadline_in(_timeout(request.headers.get(TIMEOUT_HEADER)), self._timeout)
        return Caller(tenant, deadline, request_id)

    def _failed(self, request: Request, method: str, error: Exception, caller: Caller) -> Response:
        response = error_response(error, shape_of(request.url.path), caller.request_id)
        if response.status_code == 500:
            _log.exception("%s failed", method, extra={"request_id": caller.request_id})
        return response

    def _record(self, method: str, model: str, status: int, caller: Caller, began: float) -> None:
        seconds = time.monotonic() - began
        self._backend.record("http", method, model, str(status), caller, seconds, failed=status >= 400)


async def _unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """Finish the work, or cancel it as soon as the client hangs up."""
    task = asyncio.ensure_future(work)
    gone = asyncio.create_task(_hung_up(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else Response(status_code=_GONE)
    finally:
        for left in (task, gone):
            left.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _timeout(sent: str | None) -> float | None:
    if sent is None:
        return None
    if not sent.isascii() or not sent.isdigit():
        raise InputError(f"{TIMEOUT_HEADER} must be a number of milliseconds")
    return int(sent) / 1000
