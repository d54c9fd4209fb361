"""The gRPC server: all services on one port, with health that asks the encoder, and reflection."""

from __future__ import annotations

from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ..errors import ServiceError
from ..keys import KeyRing
from ..metrics import Metrics
from ..models import Models
from ..proto.decant.v1 import decant_pb2, decant_pb2_grpc
from ..proto.tei.v1 import tei_pb2, tei_pb2_grpc
from ..search import SearchService
from . import decant_v1, tei_v1
from .door import Door, Gate
from .health import EncoderHealth

# What the transport gets to send the last answers and refusals.
LAST_ANSWERS_SECONDS = 1.0


@dataclass(frozen=True)
class GrpcOptions:
    """How the server listens.

    Attributes:
        host: address to bind.
        port: 0 for one that the system picks.
        max_message_bytes: of a request or an answer.
        timeout_seconds: for calls that set no nearer deadline.
        gzip: whether answers are compressed; compressed requests are read in any case.
    """

    host: str = "127.0.0.1"
    port: int = 50051
    max_message_bytes: int = 64 * 2**20
    timeout_seconds: float = 60.0
    gzip: bool = False


class GrpcServer:
    """decant.v1, tei.v1, health and reflection."""

    def __init__(
        self, options: GrpcOptions, models: Models, search: SearchService | None, keys: KeyRing, metrics: Metrics
    ) -> None:
        self._options = options
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", options.max_message_bytes),
                ("grpc.max_send_message_length", options.max_message_bytes),
                # Otherwise a second server on the same port is no error, and takes half of the calls.
                ("grpc.so_reuseport", 0),
                # Clients may keep idle connections alive by pings as often as every ten seconds.
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ],
            compression=grpc.Compression.Gzip if options.gzip else None,
        )
        self._gate = Gate()
        offered = self._add_decant(
            Door("decant.v1", self._gate, keys, metrics, options.timeout_seconds), models, search
        )
        tei_names = self._add_tei(Door("tei.v1", self._gate, keys, metrics, options.timeout_seconds), models)
        every = [*_names(decant_pb2), *tei_names]
        absent = [name for name in every if name not in offered | {"tei.v1.Info", "tei.v1.Embed", "tei.v1.Tokenize"}]
        self.health = EncoderHealth(models, [name for name in every if name not in absent], absent)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self._server)
        reflection.enable_server_reflection([*every, health.SERVICE_NAME, reflection.SERVICE_NAME], self._server)

    async def start(self) -> int:
        """Listen; return the port.

        Raises:
            ServiceError: the address cannot be bound.
        """
        options = self._options
        try:
            port = self._server.add_insecure_port(f"{options.host}:{options.port}")
        except RuntimeError:
            raise ServiceError(
                f"cannot listen on {options.host}:{options.port} for gRPC: choose another --host or --grpc-port"
            ) from None
        await self._server.start()
        await self.health.start()
        return port

    async def stop(self, grace_seconds: float) -> None:
        """Refuse new calls, let those that run end within the grace, then listen no longer."""
        await self._gate.close(grace_seconds)
        await self._server.stop(LAST_ANSWERS_SECONDS)

    def _add_decant(self, door: Door, models: Models, search: SearchService | None) -> set[str]:
        decant_pb2_grpc.add_EncoderServicer_to_server(decant_v1.EncoderService(door, models), self._server)
        decant_pb2_grpc.add_SearcherServicer_to_server(decant_v1.SearcherService(door, search), self._server)
        decant_pb2_grpc.add_ModelsServicer_to_server(decant_v1.ModelsService(door, models), self._server)
        searching = {"decant.v1.Searcher"} if search is not None else set[str]()
        return {"decant.v1.Encoder", "decant.v1.Models"} | searching

    def _add_tei(self, door: Door, models: Models) -> list[str]:
        model = models.default
        tei_pb2_grpc.add_InfoServicer_to_server(tei_v1.InfoService(door, model), self._server)
        tei_pb2_grpc.add_EmbedServicer_to_server(tei_v1.EmbedService(door, model), self._server)
        tei_pb2_grpc.add_PredictServicer_to_server(tei_v1.PredictService(door), self._server)
        tei_pb2_grpc.add_RerankServicer_to_server(tei_v1.RerankService(door), self._server)
        tei_pb2_grpc.add_TokenizeServicer_to_server(tei_v1.TokenizeService(door, model), self._server)
        return _names(tei_pb2)


def _names(module: object) -> list[str]:
    services = module.DESCRIPTOR.services_by_name.values()  # type: ignore[attr-defined]
    return [str(service.full_name) for service in services]
