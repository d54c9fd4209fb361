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
    document_of,
    hits_of,
    index_requests,
    joined,
    listed,
    piece_of,
    ranks_of,
    refusals,
    rerank_request,
    search_request,
    tokenize_request,
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
            with refusals():
                for request in self._connection.batches(listed(texts), chosen):
                    if len(running) == self._connection.in_flight:
                        answers.append(running.popleft().result())
                    running.append(self._encoder.Embed.future(request, **call))
                answers += [future.result() for future in running]
        except CallFailed:
            for future in running:
                future.cancel()
            raise
        return joined(answers, chosen)

    def tokenize(self, texts: str | Sequence[str], **options: Any) -> list[pb.Tokens]:
        """Say how the model sees texts; options `model`, `kind`, `instruction`, `without_special_tokens`.

        Raises CallFailed.
        """
        with refusals():
            request = tokenize_request(listed(texts), **options)
            return list(self._encoder.Tokenize(request, **self._connection.call).texts)

    def search(self, query: str, **options: Any) -> list[Hit]:
        """Find passages; options `store`, and of `Searcher.search`: `mode`, `k`, `filter`, `exact`, `router_weight`.

        Raises CallFailed.
        """
        with refusals():
            return hits_of(self._searcher.Search(search_request(query, **options), **self._connection.call))

    def get(self, doc_id: str, *, store: str = "") -> Document:
        """A whole document, as it was stored. Raises CallFailed."""
        with refusals():
            return document_of(self._searcher.Get(pb.GetRequest(store=store, doc_id=doc_id), **self._connection.call))

    def models(self) -> list[pb.Model]:
        """What is served. Raises CallFailed."""
        with refusals():
            return list(self._models.List(pb.ListModelsRequest(), **self._connection.call).models)

    def load_model(self, name: str) -> pb.Model:
        """Load a model that the server's configuration names, however long it takes; it is warm then.

        Raises CallFailed.
        """
        with refusals():
            return self._models.Load(pb.LoadModelRequest(name=name), metadata=self._connection.metadata)

    def unload_model(self, name: str) -> None:
        """Let a model finish what it has accepted, and free its memory. Raises CallFailed."""
        with refusals():
            self._models.Unload(pb.UnloadModelRequest(name=name), metadata=self._connection.metadata)

    def rerank(self, query: str, texts: Sequence[str], **options: Any) -> list[Ranked]:
        """Order texts by how well they answer a question, best first; options `model`, `top_n`, `raw_scores`.

        Raises CallFailed.
        """
        with refusals():
            return ranks_of(self._reranker.Rerank(rerank_request(query, texts, **options), **self._connection.call))

    def ask(self, question: str, **options: Any) -> Iterator[str | Answer]:
        """Yield pieces of the answer, then the `Answer`; options `history`, `k`, `filter`, `store`.

        Raises CallFailed.
        """
        call = self._answerer.Ask(ask_request(question, **options), **self._connection.call)
        try:
            with refusals():
                for response in call:
                    yield piece_of(question, response)
        finally:
            call.cancel()

    def index(self, documents: Iterable[Document], *, prefix: str = "", store: str = "") -> pb.IndexResponse:
        """Make the store hold these documents, and no other whose id begins with the prefix, as theirs do.

        A generator is read as it is sent. Raises CallFailed: as of `upsert`, and nothing was removed.
        """
        with refusals():
            requests = index_requests(documents, store, prefix)
            return self._indexer.Index(requests, metadata=self._connection.metadata)

    def upsert(self, documents: Iterable[Document], *, store: str = "") -> pb.IndexResponse:
        """Store documents, each in place of what its id held before; a generator is read as it is sent.

        Raises CallFailed: batches before the failure are stored, and the call may be repeated.
        """
        with refusals():
            # A stream takes as long as its documents; each batch has the server's time limit.
            return self._indexer.Upsert(index_requests(documents, store), metadata=self._connection.metadata)

    def delete(self, doc_ids: Sequence[str], *, store: str = "") -> int:
        """Remove documents; returns how many there were. Raises CallFailed."""
        request = pb.DeleteRequest(store=store, doc_ids=doc_ids)
        with refusals():
            return int(self._indexer.Delete(iter([request]), **self._connection.call).removed)


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
            with refusals():
                return joined(await asyncio.gather(*tasks), chosen)
        finally:
            for task in tasks:
                task.cancel()

    async def tokenize(self, texts: str | Sequence[str], **options: Any) -> list[pb.Tokens]:
        """Say how the model sees texts, see `Client.tokenize`."""
        with refusals():
            request = tokenize_request(listed(texts), **options)
            return list((await self._encoder.Tokenize(request, **self._connection.call)).texts)

    async def search(self, query: str, **options: Any) -> list[Hit]:
        """Find passages, see `Client.search`."""
        with refusals():
            return hits_of(await self._searcher.Search(search_request(query, **options), **self._connection.call))

    async def get(self, doc_id: str, *, store: str = "") -> Document:
        """A whole document, as it was stored."""
        with refusals():
            request = pb.GetRequest(store=store, doc_id=doc_id)
            return document_of(await self._searcher.Get(request, **self._connection.call))

    async def models(self) -> list[pb.Model]:
        """What is served."""
        with refusals():
            return list((await self._models.List(pb.ListModelsRequest(), **self._connection.call)).models)

    async def load_model(self, name: str) -> pb.Model:
        """Load a model that the server's configuration names, see `Client.load_model`."""
        with refusals():
            return await self._models.Load(pb.LoadModelRequest(name=name), metadata=self._connection.metadata)

    async def unload_model(self, name: str) -> None:
        """Let a model finish and free its memory, see `Client.unload_model`."""
        with refusals():
            await self._models.Unload(pb.UnloadModelRequest(name=name), metadata=self._connection.metadata)

    async def rerank(self, query: str, texts: Sequence[str], **options: Any) -> list[Ranked]:
        """Order texts by how well they answer a question, see `Client.rerank`."""
        request = rerank_request(query, texts, **options)
        with refusals():
            return ranks_of(await self._reranker.Rerank(request, **self._connection.call))

    async def ask(self, question: str, **options: Any) -> AsyncGenerator[str | Answer]:
        """Yield pieces of the answer, then the `Answer`, see `Client.ask`."""
        call = self._answerer.Ask(ask_request(question, **options), **self._connection.call)
        try:
            with refusals():
                async for response in call:
                    yield piece_of(question, response)
        finally:
            call.cancel()

    async def index(self, documents: Iterable[Document], *, prefix: str = "", store: str = "") -> pb.IndexResponse:
        """Make the store hold these documents, see `Client.index`."""
        with refusals():
            requests = index_requests(documents, store, prefix)
            return await self._indexer.Index(requests, metadata=self._connection.metadata)

    async def upsert(self, documents: Iterable[Document], *, store: str = "") -> pb.IndexResponse:
        """Store documents, see `Client.upsert`."""
        with refusals():
            return await self._indexer.Upsert(index_requests(documents, store), metadata=self._connection.metadata)

    async def delete(self, doc_ids: Sequence[str], *, store: str = "") -> int:
        """Remove documents, see `Client.delete`."""
        request = pb.DeleteRequest(store=store, doc_ids=doc_ids)
        with refusals():
            return int((await self._indexer.Delete(iter([request]), **self._connection.call)).removed)
