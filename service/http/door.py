"""What every HTTP route does on the way in and out; the twin of the gRPC door."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response

from ...embedder import InputError
from ..caller import Caller, deadline_in, request_id_from
from ..keys import KeyRing, Scope
from ..metrics import Metrics
from .shapes import error_response, shape_of

_log = logging.getLogger(__name__)
TIMEOUT_HEADER = "x-decant-timeout-ms"
# What nginx writes into its log for a client that went away; nobody receives it.
_GONE = 499


class Door:
    """The way in."""

    def __init__(self, keys: KeyRing, metrics: Metrics, timeout_seconds: float) -> None:
        self._keys = keys
        self._metrics = metrics
        self._timeout = timeout_seconds

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
        began = time.monotonic()
        request_id = request_id_from(request.headers.get("x-request-id"))
        try:
            tenant = self._keys.admit(request.headers.get("authorization"), scope)
            deadline = deadline_in(_timeout(request.headers.get(TIMEOUT_HEADER)), self._timeout)
            response = await _unless_gone(request, work(Caller(tenant, deadline, request_id)))
        except Exception as error:
            response = error_response(error, shape_of(request.url.path), request_id)
            if response.status_code == 500:
                _log.exception("%s failed", method, extra={"request_id": request_id})
        response.headers["x-request-id"] = request_id
        self._metrics.call("http", method, model, str(response.status_code), time.monotonic() - began)
        return response


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
