"""A client of decant.v1, `Client` for threads and `AsyncClient` for asyncio.

    with Client("localhost:50051") as client:
        found = client.embed(["a text", "another"], kind="query")
        found.dense        # (2, D) float32

Long lists are sent as several requests, a few at a time. Where the server is full or away, gRPC itself tries again,
after the time the server names.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from ..index.documents import Document, Hit
from ..rag import Answer
from .client_wire import (
    CallFailed,
    Connection,
    Encodings,
    Options,
    Ranked,
    TextFailed,
    ask_request,
    failure,
    hits_of,
    index_requests,
    joined,
    listed,
    piece_of,
    ranks_of,
    rerank_request,
    search_request,
)
from .proto.decant.v1 import decant_pb2 as pb
from .proto.decant.v1 import decant_pb2_grpc as stubs

__all__ = ["AsyncClient", "CallFailed", "Client", "Encodings", "Options", "Ranked", "TextFailed"]


class Client:
    """A connection to a server; threads may share it."""

    def __init__(self, address: str = "localhost:50051", **settings: Any) -> None:
        """Connect when first used.

        Args:
            address: host and port.
            settings: `key` (an API key), `timeout` in seconds of one request, `batch_texts` in one request,
                `in_flight` requests at once, `options` of the gRPC channel; `tls`, `ca`, `cert`, `cert_key` as of
                `client_wire.Connection`.
        """
        self._connection = Connection(address, **settings)
        options, credentials = self._connection.channel_options, self._connection.credentials
        if credentials is None:
            self._channel = grpc.insecure_channel(address, options)
        else:
            self._channel = grpc.secure_channel(address, credentials, options)
        self._encoder = stubs.EncoderStub(self._channel)
        self._reranker = stubs.RerankerStub(self._channel)
        self._searcher = stubs.SearcherStub(self._channel)
        self._answerer = stubs.AnswererStub(self._channel)
        self._indexer = stubs.IndexerStub(self._channel)
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
            for request in self._connection.batches(listed(texts), chosen):
                if len(running) == self._connection.in_flight:
                    answers.append(running.popleft().result())
                running.append(self._encoder.Embed.future(request, **call))
            answers += [future.result() for future in running]
        except grpc.RpcError as error:
            for future in running:
                future.cancel()
            raise failure(error) from None
        return joined(answers, chosen)

    def search(self, query: str, **options: Any) -> list[Hit]:
        """Find passages; options `store`, and of `Searcher.search`: `mode`, `k`, `filter`, `exact`, `router_weight`.

        Raises CallFailed.
        """
        try:
            return hits_of(self._searcher.Search(search_request(query, **options), **self._connection.call))
        except grpc.RpcError as error:
            raise failure(error) from None

    def models(self) -> list[pb.Model]:
        """What is served. Raises CallFailed."""
        try:
            return list(self._models.List(pb.ListModelsRequest(), **self._connection.call).models)
        except grpc.RpcError as error:
            raise failure(error) from None

    def rerank(self, query: str, texts: Sequence[str], **options: Any) -> list[Ranked]:
        """Order texts by how well they answer a question, best first; options `model`, `top_n`, `raw_scores`.

        Raises CallFailed.
        """
        try:
            return ranks_of(self._reranker.Rerank(rerank_request(query, texts, **options), **self._connection.call))
        except grpc.RpcError as error:
            raise failure(error) from None

    def ask(self, question: str, **options: Any) -> Iterator[str | Answer]:
        """Yield pieces of the answer, then the `Answer`; options `history`, `k`, `filter`, `store`.

        Raises CallFailed.
        """
        call = self._answerer.Ask(ask_request(question, **options), **self._connection.call)
        try:
            for response in call:
                yield piece_of(question, response)
        except grpc.RpcError as error:
            raise failure(error) from None
        finally:
            call.cancel()

    def upsert(self, documents: Iterable[Document], *, store: str = "") -> pb.IndexResponse:
        """Store documents, each in place of what its id held before; a generator is read as it is sent.

        Raises CallFailed: batches before the failure are stored, and the call may be repeated.
        """
        try:
            # A stream takes as long as its documents; each batch has the server's time limit.
            return self._indexer.Upsert(index_requests(documents, store), metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise failure(error) from None

    def delete(self, doc_ids: Sequence[str], *, store: str = "") -> int:
        """Remove documents; returns how many there were. Raises CallFailed."""
        request = pb.DeleteRequest(store=store, doc_ids=doc_ids)
        try:
            return int(self._indexer.Delete(iter([request]), **self._connection.call).removed)
        except grpc.RpcError as error:
            raise failure(error) from None


class AsyncClient:
    """`Client` for one event loop; the same arguments and errors."""

    def __init__(self, address: str = "localhost:50051", **settings: Any) -> None:
        """Connect when first used; arguments as of `Client`."""
        self._connection = Connection(address, **settings)
        options, credentials = self._connection.channel_options, self._connection.credentials
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(address, options)
        else:
            self._channel = grpc.aio.secure_channel(address, credentials, options)
        self._encoder = stubs.EncoderStub(self._channel)
        self._reranker = stubs.RerankerStub(self._channel)
        self._searcher = stubs.SearcherStub(self._channel)
        self._answerer = stubs.AnswererStub(self._channel)
        self._indexer = stubs.IndexerStub(self._channel)
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

        tasks = [asyncio.ensure_future(send(r)) for r in self._connection.batches(listed(texts), chosen)]
        try:
            return joined(await asyncio.gather(*tasks), chosen)
        except grpc.RpcError as error:
            raise failure(error) from None
        finally:
            for task in tasks:
                task.cancel()

    async def search(self, query: str, **options: Any) -> list[Hit]:
        """Find passages, see `Client.search`."""
        try:
            return hits_of(await self._searcher.Search(search_request(query, **options), **self._connection.call))
        except grpc.RpcError as error:
            raise failure(error) from None

    async def models(self) -> list[pb.Model]:
        """What is served."""
        try:
            return list((await self._models.List(pb.ListModelsRequest(), **self._connection.call)).models)
        except grpc.RpcError as error:
            raise failure(error) from None

    async def rerank(self, query: str, texts: Sequence[str], **options: Any) -> list[Ranked]:
        """Order texts by how well they answer a question, see `Client.rerank`."""
        request = rerank_request(query, texts, **options)
        try:
            return ranks_of(await self._reranker.Rerank(request, **self._connection.call))
        except grpc.RpcError as error:
            raise failure(error) from None

    async def ask(self, question: str, **options: Any) -> AsyncGenerator[str | Answer]:
        """Yield pieces of the answer, then the `Answer`, see `Client.ask`."""
        call = self._answerer.Ask(ask_request(question, **options), **self._connection.call)
        try:
            async for response in call:
                yield piece_of(question, response)
        except grpc.RpcError as error:
            raise failure(error) from None
        finally:
            call.cancel()

    async def upsert(self, documents: Iterable[Document], *, store: str = "") -> pb.IndexResponse:
        """Store documents, see `Client.upsert`."""
        try:
            return await self._indexer.Upsert(index_requests(documents, store), metadata=self._connection.metadata)
        except grpc.RpcError as error:
            raise failure(error) from None

    async def delete(self, doc_ids: Sequence[str], *, store: str = "") -> int:
        """Remove documents, see `Client.delete`."""
        request = pb.DeleteRequest(store=store, doc_ids=doc_ids)
        try:
            return int((await self._indexer.Delete(iter([request]), **self._connection.call)).removed)
        except grpc.RpcError as error:
            raise failure(error) from None
