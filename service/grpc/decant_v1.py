"""decant.v1: our own protocol; documents and answers are in `decant_v1_store`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from ..backend import Backend
from ..caller import Caller
from ..engine import DENSE, SPARSE
from ..models import Embedded, Models, ServedModel
from ..proto.decant.v1 import decant_pb2 as pb
from ..proto.decant.v1 import decant_pb2_grpc as stubs
from ..queue import Priority
from ..tokens import tokenize
from ..vectors import VectorFormat
from .door import Context, Door
from .streams import ordered
from .wire import (
    embed_response,
    error_message,
    format_of,
    model_message,
    options_of,
    priority_of,
    rerank_response,
    tokens_message,
    truncate_of,
)

_MANY = 128


class EncoderService(stubs.EncoderServicer):
    """decant.v1.Encoder."""

    def __init__(self, door: Door, models: Models) -> None:
        self._door = door
        self._models = models

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Encode a batch."""
        return await self._embed(request, context, "Encoder/Embed", DENSE)

    async def EmbedSparse(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Encode a batch as weighted terms."""
        return await self._embed(request, context, "Encoder/EmbedSparse", SPARSE)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncGenerator[pb.EmbedStreamResponse]:
        """Encode batch after batch."""
        async with self._door.enter(context, "Encoder/EmbedStream") as visit:
            # A stream lives as long as its client wants; each of its requests has a time limit of its own.
            origin = visit.caller

            async def answer(message: pb.EmbedStreamRequest) -> pb.EmbedStreamResponse:
                return await self._answer(message, self._door.renewed(origin))

            async for response in ordered(request_iterator, answer):
                yield response

    async def Tokenize(self, request: pb.TokenizeRequest, context: Context) -> pb.TokenizeResponse:
        """Say how the model sees texts."""
        async with self._door.enter(context, "Encoder/Tokenize") as visit:
            model = self._models.get(request.model)
            visit.model = model.name
            instruction = request.instruction if request.HasField("instruction") else None
            special = not request.without_special_tokens
            model.check_count(len(request.texts))
            encodings = await asyncio.to_thread(
                tokenize, model.encoder, request.texts, request.kind or None, instruction, special=special
            )
            return pb.TokenizeResponse(texts=[tokens_message(encoding) for encoding in encodings])
        raise AssertionError("the door ends a call that failed")

    async def _embed(self, request: pb.EmbedRequest, context: Context, method: str, output: str) -> pb.EmbedResponse:
        async with self._door.enter(context, method) as visit:
            model = self._models.get(request.model, request.adapter)
            visit.model = model.name
            form = format_of(request)
            options = options_of(request, default=output)
            made = await model.embed(request.texts, options, visit.caller, priority_of(request))
            return await _packed(model, made, form, visit.elapsed())
        raise AssertionError("the door ends a call that failed")

    async def _answer(self, message: pb.EmbedStreamRequest, caller: Caller) -> pb.EmbedStreamResponse:
        """Answer one request of a stream; its failure is its own."""
        request = message.request
        try:
            model = self._models.get(request.model, request.adapter)
            form = format_of(request)
            began = asyncio.get_running_loop().time()
            priority = priority_of(request)
            priority = Priority.BULK if priority is None else priority
            made = await model.embed(request.texts, options_of(request), caller, priority)
            seconds = asyncio.get_running_loop().time() - began
            response = await _packed(model, made, form, seconds)
            return pb.EmbedStreamResponse(id=message.id, response=response)
        except Exception as error:
            return pb.EmbedStreamResponse(id=message.id, error=error_message(error))


class RerankerService(stubs.RerankerServicer):
    """decant.v1.Reranker."""

    def __init__(self, door: Door, models: Models) -> None:
        self._door = door
        self._models = models

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Order texts by how well they answer a question."""
        async with self._door.enter(context, "Reranker/Rerank") as visit:
            reranker = self._models.reranker(request.model)
            visit.model = reranker.name
            scores = await reranker.scores(request.query, request.texts, truncate_of(request), visit.caller)
            return rerank_response(reranker.name, scores, request, visit.elapsed())
        raise AssertionError("the door ends a call that failed")


class ModelsService(stubs.ModelsServicer):
    """decant.v1.Models."""

    def __init__(self, door: Door, backend: Backend) -> None:
        self._door = door
        self._models = backend.models

    async def List(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Say what is served."""
        async with self._door.enter(context, "Models/List"):
            first = self._models.default
            rerankers = [pb.Model(name=name) for name in self._models.rerankers]
            return pb.ListModelsResponse(
                models=[*(model_message(model) for model in self._models), *rerankers],
                max_texts=first.max_texts,
                max_tokens=first.queue.limits.queued_tokens,
            )
        raise AssertionError("the door ends a call that failed")

    async def Load(self, request: pb.LoadModelRequest, context: Context) -> pb.Model:
        """Load a model that the configuration names."""
        async with self._door.enter(context, "Models/Load", "admin"):
            await self._models.load(request.name)
            if request.name in self._models.rerankers:
                return pb.Model(name=request.name)
            return model_message(self._models.get(request.name))
        raise AssertionError("the door ends a call that failed")

    async def Unload(self, request: pb.UnloadModelRequest, context: Context) -> pb.UnloadModelResponse:
        """Free a model."""
        async with self._door.enter(context, "Models/Unload", "admin"):
            await self._models.unload(request.name)
            return pb.UnloadModelResponse()
        raise AssertionError("the door ends a call that failed")


async def _packed(model: ServedModel, made: Embedded, form: VectorFormat, seconds: float) -> pb.EmbedResponse:
    """The answer to a batch; one that takes the event loop too long to write is written on a thread."""
    if len(made.items) > _MANY:
        return await asyncio.to_thread(embed_response, model, made, form, seconds)
    return embed_response(model, made, form, seconds)
