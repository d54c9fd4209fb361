"""What every gRPC method does on the way in and out: key, deadline, request id, errors as statuses, metrics."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status

from ..backend import Backend
from ..caller import Caller, deadline_in, request_id_from
from ..errors import Unavailable
from ..failures import failure_of, message_of, retry_after
from ..keys import Scope
from ..tracing import Span

Context = grpc.aio.ServicerContext[Any, Any]
Protocol = Literal["decant.v1", "tei.v1"]
# Whoever has just been answered may call once more: a closed gate is left after a pause in which nobody did.
PAUSE_SECONDS = 0.25
MOST_PAUSES = 8
_log = logging.getLogger(__name__)


@dataclass
class Visit:
    """One call inside a door.

    Attributes:
        model: whose metrics it counts for, once that is known.
    """

    caller: Caller
    began: float
    model: str = ""

    def elapsed(self) -> float:
        """Seconds since the call came in."""
        return time.monotonic() - self.began


class Gate:
    """Who is inside, and whether anybody else may come.

    gRPC's own way of stopping drops calls that have arrived and not been taken up: their clients wait until the grace
    period is over, and then read CANCELLED. Behind a closed gate they are told UNAVAILABLE at once, and try elsewhere.
    """

    def __init__(self) -> None:
        self._open = True
        self._inside = self._refused = 0
        self._empty = asyncio.Event()
        self._empty.set()

    @contextmanager
    def passage(self) -> Generator[None]:
        """Be inside for the length of the block.

        Raises:
            Unavailable: the gate is closed.
        """
        if not self._open:
            self._refused += 1
            raise Unavailable("the server is shutting down: try another one, or try again later")
        self._inside += 1
        self._empty.clear()
        try:
            yield
        finally:
            self._inside -= 1
            if not self._inside:
                self._empty.set()

    async def close(self, grace_seconds: float) -> None:
        """Let nobody in, and wait for those inside to leave, no longer than the grace; then until nobody knocks."""
        self._open = False
        with suppress(TimeoutError):
            await asyncio.wait_for(self._empty.wait(), grace_seconds)
        for _ in range(MOST_PAUSES):
            refused = self._refused
            await asyncio.sleep(PAUSE_SECONDS)
            if self._refused == refused:
                return


class Door:
    """One protocol's way in."""

    def __init__(self, protocol: Protocol, gate: Gate, backend: Backend) -> None:
        self._protocol: Protocol = protocol
        self._gate = gate
        self._backend = backend
        self._timeout = backend.settings.request_seconds

    @asynccontextmanager
    async def enter(self, context: Context, method: str, scope: Scope = "embed") -> AsyncGenerator[Visit]:
        """Admit a call; what is raised inside becomes its status."""
        sent = _metadata(context)
        with self._backend.tracer.span(f"{self._protocol}.{method}", sent) as span:
            async with self._entered(context, method, scope, sent, span) as visit:
                yield visit

    @asynccontextmanager
    async def _entered(
        self, context: Context, method: str, scope: Scope, sent: dict[str, str], span: Span
    ) -> AsyncGenerator[Visit]:
        began = time.monotonic()
        request_id = request_id_from(sent.get("x-request-id"))
        context.set_trailing_metadata((("x-request-id", request_id),))
        deadline = deadline_in(context.time_remaining(), self._timeout)
        visit = Visit(Caller("", deadline, request_id), began)
        code = grpc.StatusCode.OK
        try:
            with self._gate.passage():
                tenant = self._backend.keys.admit(sent.get("authorization"), scope)
                visit.caller = Caller(tenant, deadline, request_id)
                yield visit
        except (asyncio.CancelledError, GeneratorExit):
            code = grpc.StatusCode.CANCELLED
            raise
        except grpc.aio.AbortError:
            code = grpc.StatusCode.UNKNOWN
            raise
        except Exception as error:
            code = self.status(error)
            if code is grpc.StatusCode.INTERNAL:
                _log.exception("%s failed", method, extra={"request_id": request_id})
            line = message_of(error, request_id)
            await context.abort(code, line, _trailers(code, error, line, request_id))
        finally:
            failed = code is not grpc.StatusCode.OK
            span.set_attributes({"rpc.grpc.status_code": code.value[0], "decant.request_id": request_id})
            # Counted behind the answer, not before it.
            asyncio.get_running_loop().call_soon(
                partial(self._backend.record, failed=failed),
                *(self._protocol, method, visit.model, code.name, visit.caller, visit.elapsed()),
            )

    def renewed(self, caller: Caller) -> Caller:
        """The same caller with a time limit that begins now, for one request of a stream."""
        return replace(caller, deadline=deadline_in(None, self._timeout))

    def status(self, error: Exception) -> grpc.StatusCode:
        """What an error is called in this protocol."""
        failure = failure_of(error)
        return failure.grpc if self._protocol == "decant.v1" else failure.tei_grpc


def _trailers(
    code: grpc.StatusCode, error: Exception, line: str, request_id: str
) -> tuple[tuple[str, str | bytes], ...]:
    """Trailing metadata of a failed call: its id, and when to try again in the two ways clients look for it."""
    trailers: list[tuple[str, str | bytes]] = [("x-request-id", request_id)]
    seconds = retry_after(error)
    if seconds is not None:
        delay = Duration()
        delay.FromMilliseconds(round(seconds * 1000))
        detail = AnyMessage()
        detail.Pack(RetryInfo(retry_delay=delay))
        number: int = code.value[0]
        status = Status(code=number, message=line, details=[detail])
        trailers += [
            ("grpc-status-details-bin", status.SerializeToString()),
            ("retry-after-ms", str(round(seconds * 1000))),
            # What gRPC's own retry policy obeys.
            ("grpc-retry-pushback-ms", str(round(seconds * 1000))),
        ]
    return tuple(trailers)


def _metadata(context: Context) -> dict[str, str]:
    pairs = context.invocation_metadata() or ()
    return {key: value for key, value in pairs if isinstance(value, str)}
