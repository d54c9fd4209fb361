"""One process: models with their queues, stores, and all doors to them on one event loop; and how it leaves."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Callable, Generator
from typing import Any

import uvicorn

from ..embedder import Encoder
from ..rag.generators.choosing import GeneratorChoice
from .asking import Asking
from .backend import Backend
from .catalog import ConfiguredModels, Loader, default_name
from .config import Settings
from .engine import EncoderEngine
from .errors import ServiceError
from .grpc.server import GrpcServer
from .http.app import make_app
from .keys import KeyRing
from .metrics import Metrics
from .models import Models, ServedModel
from .stores import Stores
from .tls import Tls
from .tracing import make_tracer

_log = logging.getLogger(__name__)
# Python's own is 5 ms.
_SWITCH_SECONDS = 0.001


class Server:
    """Everything `decant serve` runs.

    Attributes:
        grpc_port: where gRPC is served, once started.
        http_port: where HTTP is.
    """

    def __init__(self, settings: Settings, encoder: Encoder, load: Loader | None = None) -> None:
        """Create it on the event loop that will run it; `start` listens.

        Args:
            settings: what to serve, and how.
            encoder: the first model, loaded.
            load: loads the others; `Encoder.load` if None.
        """
        self.settings = settings
        self.metrics = Metrics()
        name = default_name(settings, encoder)
        limits = settings.limits(EncoderEngine(encoder).batch_tokens)
        self.model = ServedModel(name, encoder, limits, self.metrics, max_texts=settings.max_texts)
        self._catalog = ConfiguredModels(settings, name, self.metrics, load)
        self.models = Models([self.model], self._catalog, late_interaction=settings.rerank == "late")
        self._leaving = False
        self._backend: Backend | None = None
        self._http: _Uvicorn | None = None
        self._http_task: asyncio.Task[None] | None = None
        self._grpc: GrpcServer | None = None
        self._close_metrics: Callable[[], None] | None = None
        self.grpc_port = self.http_port = 0

    @property
    def backend(self) -> Backend:
        """What stands behind the doors, once started."""
        assert self._backend is not None
        return self._backend

    async def start(self) -> None:
        """Load and warm up, then listen; whoever can connect will be served.

        Raises:
            DecantError: an address, a certificate, a model or the store cannot be used; nothing is left listening.
        """
        settings = self.settings
        stores: Stores | None = None
        listener: socket.socket | None = None
        try:
            tls = Tls.of(settings)
            tracer = make_tracer(settings.traces)
            if settings.metrics_port is not None:
                self._close_metrics = self.metrics.listen(settings.host, settings.metrics_port)
            await self.model.warm_up()
            for name in self._catalog.at_start:
                await self.models.load(name)
            stores = await Stores.opened(settings, self.models, self.metrics)
            keys = KeyRing(settings.api_keys, settings.rates())
            asking = Asking(self.metrics, _choice(settings))
            await asking.prepare(stores)
            self._backend = Backend(settings, self.models, stores, asking, keys, self.metrics, tracer)
            listener = _listen(settings.host, settings.http_port, reuse_port=settings.reuse_port)
            self.http_port = listener.getsockname()[1]
            self._grpc = GrpcServer(self._backend, tls)
            self.grpc_port = await self._grpc.start()
        except BaseException:
            if listener is not None:
                listener.close()
            if stores is not None:
                await stores.close()
            await self.models.close()
            await self._hide_metrics()
            raise
        app = make_app(self._backend, healthy=self.healthy)
        self._http = _Uvicorn(app, settings.drain_seconds, tls)
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
        # Questions and writes go on in threads that need the queue: it closes last.
        await asyncio.to_thread(self.backend.asking.close)
        await self.backend.stores.close()
        await self.models.close()
        await asyncio.to_thread(self.backend.tracer.close)
        await self._hide_metrics()
        queue = self.model.queue
        _log.info("stopped", extra={"accepted": queue.accepted, "answered": queue.answered})

    async def _hide_metrics(self) -> None:
        if self._close_metrics is not None:
            await asyncio.to_thread(self._close_metrics)

    async def healthy(self) -> bool:
        """Whether this server should get calls."""
        return not self._leaving and await self.models.healthy()


def run(settings: Settings, encoder: Encoder, ready: Callable[[Server], None], *, orphaned: int | None = None) -> None:
    """`serve` on an event loop of its own: uvloop's, which wakes sooner, where there is one for the platform."""
    try:
        from uvloop import new_event_loop
    except ImportError:
        new_event_loop = None
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(serve(settings, encoder, ready, orphaned=orphaned))


async def serve(
    settings: Settings, encoder: Encoder, ready: Callable[[Server], None], *, orphaned: int | None = None
) -> None:
    """Run a server until SIGTERM or SIGINT, then leave in order.

    Args:
        settings: what to serve, and how.
        encoder: the first model.
        ready: called once it listens.
        orphaned: a descriptor that becomes readable when whoever started this process has gone; it leaves then, too.
    """
    # A batch is computed in Python between calls of the device: the event loop must not wait long for its turn there.
    sys.setswitchinterval(_SWITCH_SECONDS)
    server = Server(settings, encoder)
    await server.start()
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, asked.set)
    # To look through all that models and libraries hold takes half a second, in which nobody is answered. The second
    # round tells the collector how little is left: it looks through everything when that has grown by a quarter.
    gc.collect()
    gc.freeze()
    gc.collect()
    if orphaned is not None:
        loop.add_reader(orphaned, asked.set)
    ready(server)
    await asked.wait()
    if orphaned is not None:
        loop.remove_reader(orphaned)
    await server.stop()
    gc.unfreeze()  # libraries take at exit for a leak what cannot be freed


class _Uvicorn(uvicorn.Server):
    """uvicorn as a guest on our event loop: it leaves signals alone and says when it listens."""

    def __init__(self, app: Any, grace_seconds: float, tls: Tls | None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=max(1, round(grace_seconds)),
                ssl_context_factory=None if tls is None else lambda config, default: tls.context(),
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


def _choice(settings: Settings) -> GeneratorChoice:
    return GeneratorChoice(
        settings.generator, settings.generator_model, settings.draft, settings.device, settings.kv_reuse
    )


def _listen(host: str, port: int, *, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=1024, reuse_port=reuse_port)
    except OSError as error:
        raise ServiceError(
            f"cannot listen on {host}:{port} for HTTP: {error.strerror}; choose another --host or --http-port"
        ) from None
