"""A client of decant.v1, `Client` for threads and `AsyncClient` for asyncio.

    with Client("localhost:50051") as client:
        found = client.embed(["a text", "another"], kind="query")
        found.dense        # (2, D) float32

Long lists are sent as several requests, a few at a time. Where the server is full or away, gRPC itself tries again,
after the time the server names.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import grpc
import numpy as np
from numpy.typing import NDArray

from ..embedder import InputError
from ..embedder.tokenization import Truncate
from ..index.documents import Chunk, Hit
from .errors import ServiceError
from .proto.decant.v1 import decant_pb2 as pb
from .proto.decant.v1 import decant_pb2_grpc as stubs
from .vectors import VectorFormat, unpack

_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.1s",
    "maxBackoff": "5s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
}
_SERVICES = [{"service": f"decant.v1.{name}"} for name in ("Encoder", "Searcher", "Models")]
_MESSAGE_BYTES = 256 * 2**20


class CallFailed(ServiceError):
    """The server refused a call, or could not be reached.

    Attributes:
        code: gRPC's status.
    """

    def __init__(self, message: str, code: grpc.StatusCode) -> None:
        super().__init__(message)
        self.code = code


class TextFailed(ServiceError):
    """One text could not be encoded.

    Attributes:
        index: its position in the list.
    """

    def __init__(self, index: int, message: str) -> None:
        super().__init__(f"text {index}: {message}")
        self.index = index


@dataclass(frozen=True)
class Encodings:
    """What the server made of N texts.

    Attributes:
        dense: (N, D) float32; NaN where `errors` has an entry.
        tokens: (N,) int32, tokens encoded.
        truncated: (N,) bool, whether the text was cut.
        errors: why a text has no vector, by its position.
        fingerprint: of the model; changes whenever the same text could get another vector.
    """

    dense: NDArray[np.float32]
    tokens: NDArray[np.int32]
    truncated: NDArray[np.bool_]
    errors: Mapping[int, str]
    model: str
    fingerprint: str


@dataclass(frozen=True)
class Options:
    """How to encode; as the arguments of `decant.embedder.Encoder.encode`.

    Attributes:
        format: how vectors travel; they arrive as float32 in any case.
        keep_errors: return texts that failed in `Encodings.errors` where False raises `TextFailed`.
    """

    model: str = ""
    kind: str = "document"
    instruction: str | None = None
    dimensions: int | None = None
    format: str = VectorFormat.FLOAT32
    truncate: Truncate = "end"
    keep_errors: bool = False

    def __post_init__(self) -> None:
        """Refuse words the protocol has no number for; raises InputError."""
        _one_of("format", self.format, tuple(VectorFormat))
        _one_of("truncate", self.truncate, ("end", "error"))

    def request(self, texts: Sequence[str]) -> pb.EmbedRequest:
        """The message for some texts."""
        return pb.EmbedRequest(
            model=self.model,
            texts=texts,
            kind=self.kind,
            instruction=self.instruction,
            dimensions=self.dimensions,
            format=f"VECTOR_FORMAT_{self.format.upper()}",
            truncate=f"TRUNCATE_{self.truncate.upper()}",
        )


@dataclass(frozen=True)
class _Connection:
    """What both clients are made with."""

    address: str
    key: str | None = None
    timeout: float = 60.0
    batch_texts: int = 256
    in_flight: int = 4
    options: Sequence[tuple[str, Any]] = field(default_factory=tuple)

    @property
    def channel_options(self) -> list[tuple[str, Any]]:
        config = {"methodConfig": [{"name": _SERVICES, "retryPolicy": _RETRY}]}
        sizes = [("grpc.max_receive_message_length", _MESSAGE_BYTES), ("grpc.max_send_message_length", _MESSAGE_BYTES)]
        return [*sizes, ("grpc.service_config", json.dumps(config)), *self.options]

    @property
    def metadata(self) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {self.key}")] if self.key else []

    @property
    def call(self) -> dict[str, Any]:
        return {"timeout": self.timeout, "metadata": self.metadata}

    def batches(self, texts: Sequence[str], options: Options) -> list[pb.EmbedRequest]:
        step = self.batch_texts
        return [options.request(texts[start : start + step]) for start in range(0, max(len(texts), 1), step)]


class Client:
    """A connection to a server; threads may share it."""

    def __init__(self, address: str = "localhost:50051", **settings: Any) -> None:
        """Connect when first used.

        Args:
            address: host and port.
            settings: `key` (an API key), `timeout` in seconds of one request, `batch_texts` in one request,
                `in_flight` requests at once, `options` of the gRPC channel.
        """
        self._connection = _Connection(address, **settings)
        self._channel = grpc.insecure_channel(address, self._connection.channel_options)
        self._encoder = stubs.EncoderStub(self._channel)
        self._searcher = stubs.SearcherStub(self._channel)
        self._models = stubs.ModelsStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Hang up."""
        self._channel.close()

    def embed(self, texts: str | Sequence[str], **options: Any) -> Encodings:
        """Encode texts; `options` are the fields of `Options`.

        Raises:
            CallFailed: a request was refused.
            TextFailed: a text could not be encoded, unless `keep_errors` is set.
        """
        chosen = Options(**options)
        call = self._connection.call
        running: deque[Any] = deque()
        answers: list[pb.EmbedResponse] = []
        try:
            for request in self._connection.batches(_listed(texts), chosen):
                if len(running) == self._connection.in_flight:
                    answers.append(running.popleft().result())
                running.append(self._encoder.Embed.future(request, **call))
            answers += [future.result() for future in running]
        except grpc.RpcError as error:
            for future in running:
                future.cancel()
            raise _failure(error) from None
        return _joined(answers, chosen)

    def search(self, query: str, **options: Any) -> list[Hit]:
        """Find passages; options `mode` (dense, lexical, hybrid), `k`, `filter`, `exact`. Raises CallFailed."""
        try:
            return _hits(self._searcher.Search(_search_request(query, **options), **self._connection.call))
        except grpc.RpcError as error:
            raise _failure(error) from None

    def models(self) -> list[pb.Model]:
        """What is served. Raises CallFailed."""
        try:
            return list(self._models.List(pb.ListModelsRequest(), **self._connection.call).models)
        except grpc.RpcError as error:
            raise _failure(error) from None


class AsyncClient:
    """`Client` for one event loop; the same arguments and errors."""

    def __init__(self, address: str = "localhost:50051", **settings: Any) -> None:
        """Connect when first used; arguments as of `Client`."""
        self._connection = _Connection(address, **settings)
        self._channel = grpc.aio.insecure_channel(address, self._connection.channel_options)
        self._encoder = stubs.EncoderStub(self._channel)
        self._searcher = stubs.SearcherStub(self._channel)
        self._models = stubs.ModelsStub(self._channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await self._channel.close()

    async def embed(self, texts: str | Sequence[str], **options: Any) -> Encodings:
        """Encode texts, see `Client.embed`."""
        chosen = Options(**options)
        room = asyncio.Semaphore(self._connection.in_flight)

        async def send(request: pb.EmbedRequest) -> pb.EmbedResponse:
            async with room:
                return await self._encoder.Embed(request, **self._connection.call)

        tasks = [asyncio.ensure_future(send(r)) for r in self._connection.batches(_listed(texts), chosen)]
        try:
            return _joined(await asyncio.gather(*tasks), chosen)
        except grpc.RpcError as error:
            raise _failure(error) from None
        finally:
            for task in tasks:
                task.cancel()

    async def search(self, query: str, **options: Any) -> list[Hit]:
        """Find passages, see `Client.search`."""
        try:
            return _hits(await self._searcher.Search(_search_request(query, **options), **self._connection.call))
        except grpc.RpcError as error:
            raise _failure(error) from None

    async def models(self) -> list[pb.Model]:
        """What is served."""
        try:
            return list((await self._models.List(pb.ListModelsRequest(), **self._connection.call)).models)
        except grpc.RpcError as error:
            raise _failure(error) from None


def _listed(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def _failure(error: Any) -> CallFailed:
    return CallFailed(str(error.details()), error.code())


def _joined(answers: Iterable[pb.EmbedResponse], options: Options) -> Encodings:
    """The answers to one list of texts as one."""
    parts = list(answers)
    items = [item for part in parts for item in part.embeddings]
    width = parts[0].dimensions
    dense = np.full((len(items), width), np.nan, np.float32)
    errors: dict[int, str] = {}
    for index, item in enumerate(items):
        if item.HasField("error"):
            if not options.keep_errors:
                raise TextFailed(index, item.error.message)
            errors[index] = item.error.message
        else:
            dense[index] = unpack(item.dense, VectorFormat(options.format), width, item.scale)
    fingerprints = {part.fingerprint for part in parts}
    if len(fingerprints) > 1:
        raise ServiceError("the server changed its model between two requests: encode these texts again")
    return Encodings(
        dense,
        np.array([item.tokens for item in items], np.int32),
        np.array([item.truncated for item in items], np.bool_),
        errors,
        parts[0].model,
        parts[0].fingerprint,
    )


def _search_request(
    query: str, *, mode: str = "hybrid", k: int = 10, filter: str | None = None, exact: bool = False
) -> pb.SearchRequest:
    _one_of("mode", mode, ("dense", "lexical", "hybrid"))
    return pb.SearchRequest(query=query, mode=f"SEARCH_MODE_{mode.upper()}", k=k, filter=filter, exact=exact)


def _one_of(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise InputError(f"unknown {name} {value!r}: choose from {', '.join(choices)}")


def _hits(response: pb.SearchResponse) -> list[Hit]:
    return [
        Hit(
            Chunk(hit.doc_id, hit.ordinal, hit.start_char, hit.end_char, hit.text),
            hit.score,
            hit.title,
            hit.path,
            {name: getattr(value, value.WhichOneof("kind") or "text") for name, value in hit.metadata.items()},
            dict(hit.ranks),
        )
        for hit in response.hits
    ]
