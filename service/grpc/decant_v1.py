"""decant.v1: our own protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from ..caller import Caller
from ..errors import NotOffered
from ..models import Embedded, Models, ServedModel
from ..proto.decant.v1 import decant_pb2 as pb
from ..proto.decant.v1 import decant_pb2_grpc as stubs
from ..queue import Priority
from ..search import SearchService
from ..tokens import tokenize
from ..vectors import VectorFormat
from .door import Context, Door
from .streams import ordered
from .wire import (
    embed_response,
    error_message,
    format_of,
    hit_message,
    model_message,
    options_of,
    priority_of,
    query_of,
    timing,
    tokens_message,
)

_MANY = 128


class EncoderService(stubs.EncoderServicer):
    """decant.v1.Encoder."""

    def __init__(self, door: Door, models: Models) -> None:
        self._door = door
        self._models = models

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Encode a batch."""
        async with self._door.enter(context, "Encoder/Embed") as visit:
            model = self._models.get(request.model)
            visit.model = model.name
            form = format_of(request)
            made = await model.embed(request.texts, options_of(request), visit.caller, priority_of(request))
            return await _packed(model, made, form, visit.elapsed())
        raise AssertionError("the door ends a call that failed")

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

    async def _answer(self, message: pb.EmbedStreamRequest, caller: Caller) -> pb.EmbedStreamResponse:
        """Answer one request of a stream; its failure is its own."""
        request = message.request
        try:
            model = self._models.get(request.model)
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


class SearcherService(stubs.SearcherServicer):
    """decant.v1.Searcher."""

    def __init__(self, door: Door, search: SearchService | None) -> None:
        self._door = door
        self._search = search

    async def Search(self, request: pb.SearchRequest, context: Context) -> pb.SearchResponse:
        """Find passages."""
        async with self._door.enter(context, "Searcher/Search", "search") as visit:
            if self._search is None:
                raise NotOffered("this server has no store to search: start it with --store DIR")
            visit.model = self._search.model.name
            found = await self._search.search(query_of(request), visit.caller)
            hits = [hit_message(hit, with_text=not request.without_text) for hit in found.hits]
            return pb.SearchResponse(hits=hits, timing=timing(found, visit.elapsed()))
        raise AssertionError("the door ends a call that failed")


class ModelsService(stubs.ModelsServicer):
    """decant.v1.Models."""

    def __init__(self, door: Door, models: Models) -> None:
        self._door = door
        self._models = models

    async def List(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        """Say what is served."""
        async with self._door.enter(context, "Models/List"):
            first = self._models.default
            return pb.ListModelsResponse(
                models=[model_message(model) for model in self._models],
                max_texts=first.max_texts,
                max_tokens=first.queue.limits.queued_tokens,
            )
        raise AssertionError("the door ends a call that failed")


async def _packed(model: ServedModel, made: Embedded, form: VectorFormat, seconds: float) -> pb.EmbedResponse:
    """The answer to a batch; one that takes the event loop too long to write is written on a thread."""
    if len(made.items) > _MANY:
        return await asyncio.to_thread(embed_response, model, made, form, seconds)
    return embed_response(model, made, form, seconds)
