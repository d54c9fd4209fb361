"""One process: a model, a queue, a store, and all doors to them on one event loop; and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from ..embedder import Encoder
from .config import Settings
from .engine import EncoderEngine
from .errors import ServiceError
from .grpc.server import GrpcOptions, GrpcServer
from .http.app import make_app
from .keys import KeyRing
from .metrics import Metrics
from .models import Models, ServedModel
from .search import SearchService

_log = logging.getLogger(__name__)


class Server:
    """Everything `decant serve` runs.

    Attributes:
        grpc_port: where gRPC is served, once started.
        http_port: where HTTP is.
    """

    def __init__(self, settings: Settings, encoder: Encoder) -> None:
        """Create it on the event loop that will run it; `start` listens."""
        self.settings = settings
        self.metrics = Metrics()
        name = settings.name or encoder.path.name
        limits = settings.limits(EncoderEngine(encoder).batch_tokens)
        self.model = ServedModel(name, encoder, limits, self.metrics, max_texts=settings.max_texts)
        self.models = Models([self.model])
        self._search: SearchService | None = None
        self._keys = KeyRing(settings.api_keys)
        self._leaving = False
        self._http: _Uvicorn | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._grpc: GrpcServer | None = None
        self.grpc_port = self.http_port = 0

    async def start(self) -> None:
        """Warm up, then listen; whoever can connect will be served.

        Raises:
            DecantError: an address or the store cannot be used; nothing is left listening.
        """
        settings = self.settings
        try:
            if settings.store is not None:
                self._search = await asyncio.to_thread(SearchService, settings.store, self.model, self.metrics)
            await self.model.warm_up()
            listener = _listen(settings.host, settings.http_port)
            self.http_port = listener.getsockname()[1]
            self._grpc = GrpcServer(
                GrpcOptions(
                    settings.host,
                    settings.grpc_port,
                    settings.max_message_bytes,
                    settings.request_seconds,
                    settings.grpc_gzip,
                ),
                self.models,
                self._search,
                self._keys,
                self.metrics,
            )
            try:
                self.grpc_port = await self._grpc.start()
            except BaseException:
                listener.close()
                raise
        except BaseException:
            await self.models.close()
            raise
        self._http = _Uvicorn(self._app(), settings.drain_seconds)
        self._http_task = asyncio.create_task(self._http.serve([listener]))
        await self._http.ready.wait()

    async def stop(self) -> None:
        """Say NOT_SERVING, take no new calls, finish those that were accepted."""
        assert self._grpc is not None and self._http is not None and self._http_task is not None
        self._leaving = True
        await self._grpc.health.leave()
        await asyncio.sleep(self.settings.linger_seconds)
        self._http.should_exit = True
        await asyncio.gather(self._grpc.stop(self.settings.drain_seconds), self._http_task)
        await self.models.close()
        if self._search is not None:
            await asyncio.to_thread(self._search.close)
        queue = self.model.queue
        _log.info("stopped", extra={"accepted": queue.accepted, "answered": queue.answered})

    async def healthy(self) -> bool:
        """Whether this server should get calls."""
        return not self._leaving and await self.models.healthy()

    def _app(self) -> Any:
        return make_app(
            self.models,
            self._search,
            self._keys,
            self.metrics,
            timeout_seconds=self.settings.request_seconds,
            max_body_bytes=self.settings.max_message_bytes,
            healthy=self.healthy,
        )


async def serve(settings: Settings, encoder: Encoder, ready: Callable[[Server], None]) -> None:
    """Run a server until SIGTERM or SIGINT, then leave in order; `ready` is called once it listens."""
    server = Server(settings, encoder)
    await server.start()
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    ready(server)
    await asked.wait()
    await server.stop()


class _Uvicorn(uvicorn.Server):
    """uvicorn as a guest on our event loop: it leaves signals alone and says when it listens."""

    def __init__(self, app: Any, grace_seconds: float) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=max(1, round(grace_seconds)),
            )
        )
        self.ready = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Not here: the process has one handler for all doors."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.ready.set()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        raise ServiceError(
            f"cannot listen on {host}:{port} for HTTP: {error.strerror}; choose another --host or --http-port"
        ) from None
