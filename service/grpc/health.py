"""Standard gRPC health, per service; a service is SERVING only while the encoder behind it computes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc
from grpc_health.v1 import health, health_pb2

from ..models import Models
from .door import Context

Response = health_pb2.HealthCheckResponse
_WATCH_SECONDS = 5.0


# grpc's type stubs leave its asyncio half out.
class EncoderHealth(health.aio.HealthServicer):  # pyright: ignore[reportUntypedBaseClass, reportAttributeAccessIssue]
    """`Check` asks the encoder; `Watch` is told by a task that asks it every few seconds.

    Attributes:
        serving: names of services that work while the encoder does; "" is the whole server.
        absent: names of services this server knows and does not offer.
    """

    def __init__(self, models: Models, serving: Sequence[str], absent: Sequence[str]) -> None:
        super().__init__()
        self._models = models
        self.serving = ("", *serving)
        self.absent = tuple(absent)
        self._leaving = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Say SERVING from now on, as long as it is true."""
        for name in self.absent:
            await self.set(name, Response.NOT_SERVING)
        await self._look()
        self._task = asyncio.create_task(self._watch())

    async def leave(self) -> None:
        """Say NOT_SERVING for good."""
        self._leaving = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.enter_graceful_shutdown()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> Response:
        """Answer for one service, after asking the encoder."""
        if request.service in self.absent:
            return Response(status=Response.NOT_SERVING)
        if request.service not in self.serving:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        status = await self._look()
        return Response(status=status)

    async def _look(self) -> Response.ServingStatus:
        healthy = not self._leaving and await self._models.healthy()
        status = Response.SERVING if healthy and not self._leaving else Response.NOT_SERVING
        if not self._leaving:
            for name in self.serving:
                await self.set(name, status)
        return status

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            await self._look()
