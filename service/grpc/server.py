"""The gRPC server: all services on one port, with health that asks the encoder, and reflection."""

from __future__ import annotations

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ..backend import Backend
from ..errors import ServiceError
from ..proto.decant.v1 import decant_pb2, decant_pb2_grpc
from ..proto.tei.v1 import tei_pb2, tei_pb2_grpc
from ..tls import Tls
from . import decant_v1, decant_v1_store, tei_v1
from .door import Door, Gate
from .health import EncoderHealth

# What the transport gets to send the last answers and refusals.
LAST_ANSWERS_SECONDS = 1.0


class GrpcServer:
    """decant.v1, tei.v1, health and reflection."""

    def __init__(self, backend: Backend, tls: Tls | None) -> None:
        self._settings = settings = backend.settings
        self._tls = tls
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", settings.max_message_bytes),
                # Unasked, a second server on the same port is no error, and takes half of the calls.
                ("grpc.so_reuseport", int(settings.reuse_port)),
                # Clients may keep idle connections alive by pings as often as every ten seconds.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
                # Connections whose other end has gone without a word are found out and closed.
                ("grpc.keepalive_time_ms", 60_000),
                ("grpc.keepalive_timeout_ms", 20_000),
            ],
            compression=grpc.Compression.Gzip if settings.grpc_gzip else None,
        )
        self._gate = Gate()
        self._add_decant(Door("decant.v1", self._gate, backend), backend)
        self._add_tei(Door("tei.v1", self._gate, backend), backend)
        absent = ["tei.v1.Predict"]
        absent += [] if backend.stores else ["decant.v1.Searcher", "decant.v1.Answerer"]
        absent += [] if backend.stores.writable else ["decant.v1.Indexer"]
        every = [*_names(decant_pb2), *_names(tei_pb2)]
        self.health = EncoderHealth(backend.models, [name for name in every if name not in absent], absent)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        reflection.enable_server_reflection([*every, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)

    async def start(self) -> int:
        """Listen; return the port.

        Raises:
            ServiceError: the address cannot be bound.
        """
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        address = f"{host}:{settings.grpc_port}"
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._tls.credentials())
        except RuntimeError:
            raise ServiceError(f"cannot listen on {address} for gRPC: choose another --host or --grpc-port") from None
        await self._server.start()
        await self.health.start()
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let those that run end within the grace, then listen no longer."""
        await self._gate.close(grace_seconds)
        await self._server.stop(LAST_ANSWERS_SECONDS)

    def _add_decant(self, door: Door, backend: Backend) -> None:
        server = self._server
        decant_pb2_grpc.add_EncoderServicer_to_server(decant_v1.EncoderService(door, backend.models), server)
        decant_pb2_grpc.add_RerankerServicer_to_server(decant_v1.RerankerService(door, backend.models), server)
        decant_pb2_grpc.add_ModelsServicer_to_server(decant_v1.ModelsService(door, backend), server)
        decant_pb2_grpc.add_SearcherServicer_to_server(decant_v1_store.SearcherService(door, backend), server)
        decant_pb2_grpc.add_AnswererServicer_to_server(decant_v1_store.AnswererService(door, backend), server)
        decant_pb2_grpc.add_IndexerServicer_to_server(decant_v1_store.IndexerService(door, backend), server)

    def _add_tei(self, door: Door, backend: Backend) -> None:
        model, server = backend.models.default, self._server
        tei_pb2_grpc.add_InfoServicer_to_server(tei_v1.InfoService(door, model), server)
        tei_pb2_grpc.add_EmbedServicer_to_server(tei_v1.EmbedService(door, model), server)
        tei_pb2_grpc.add_PredictServicer_to_server(tei_v1.PredictService(door), server)
        tei_pb2_grpc.add_RerankServicer_to_server(tei_v1.RerankService(door, backend.models), server)
        tei_pb2_grpc.add_TokenizeServicer_to_server(tei_v1.TokenizeService(door, model), server)


def _names(module: object) -> list[str]:
    services = module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
    return [str(service.full_name) for service in services]
