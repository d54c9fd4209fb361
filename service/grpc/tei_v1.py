"""tei.v1: the protocol of text-embeddings-inference, with its defaults: no truncation unless asked for, unit vectors.

One rule is stricter than there: `dimensions` must be a width the model was trained for. Truncation is reported in the
trailing metadata `x-decant-truncated`, since the messages have no place for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from importlib.metadata import version
from typing import NoReturn

from ...embedder import InputError
from ..caller import Caller
from ..engine import EmbedOptions, Encoded
from ..errors import NotOffered
from ..models import Embedded, ServedModel
from ..proto.tei.v1 import tei_pb2 as pb
from ..proto.tei.v1 import tei_pb2_grpc as stubs
from ..queue import Priority
from ..tokens import decode, simple_tokens
from .door import Context, Door
from .streams import ordered


class InfoService(stubs.InfoServicer):
    """tei.v1.Info."""

    def __init__(self, door: Door, model: ServedModel) -> None:
        self._door = door
        self._model = model

    async def Info(self, request: pb.InfoRequest, context: Context) -> pb.InfoResponse:
        """Say what is served and within which limits."""
        async with self._door.enter(context, "Info/Info"):
            limits = self._model.queue.limits
            return pb.InfoResponse(
                version=version("decant"),
                model_id=self._model.name,
                model_sha=self._model.encoder.fingerprint,
                model_dtype=self._model.dtype,
                model_type=pb.MODEL_TYPE_EMBEDDING,
                max_concurrent_requests=limits.queued_requests,
                max_input_length=self._model.encoder.max_tokens,
                max_batch_tokens=limits.batch_tokens,
                max_client_batch_size=self._model.max_texts,
                tokenization_workers=2,
            )
        raise AssertionError("the door ends a call that failed")


class EmbedService(stubs.EmbedServicer):
    """tei.v1.Embed."""

    def __init__(self, door: Door, model: ServedModel) -> None:
        self._door = door
        self._model = model

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """Encode one text."""
        async with self._door.enter(context, "Embed/Embed") as visit:
            visit.model = self._model.name
            item, made = await self._encode(request, visit.caller, Priority.QUERY)
            metadata = _metadata(request.inputs, item, made, visit.elapsed())
            await context.send_initial_metadata(_timing_headers(metadata))
            truncated = str(item.truncated).lower()
            context.set_trailing_metadata(
                (("x-request-id", visit.caller.request_id), ("x-decant-truncated", truncated))
            )
            return pb.EmbedResponse(embeddings=item.vector, metadata=metadata)
        raise AssertionError("the door ends a call that failed")

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedRequest], context: Context
    ) -> AsyncGenerator[pb.EmbedResponse]:
        """Encode text after text; the first that fails ends the stream."""
        async with self._door.enter(context, "Embed/EmbedStream") as visit:
            visit.model = self._model.name
            origin = visit.caller

            async def answer(request: pb.EmbedRequest) -> pb.EmbedResponse:
                began = asyncio.get_running_loop().time()
                item, made = await self._encode(request, self._door.renewed(origin), Priority.BULK)
                seconds = asyncio.get_running_loop().time() - began
                return pb.EmbedResponse(embeddings=item.vector, metadata=_metadata(request.inputs, item, made, seconds))

            # One text per message: many must be in work at once for a batch to form.
            async for response in ordered(request_iterator, answer, window=256):
                yield response

    async def EmbedSparse(self, request: pb.EmbedSparseRequest, context: Context) -> pb.EmbedSparseResponse:
        """Not offered."""
        async with self._door.enter(context, "Embed/EmbedSparse"):
            _no("sparse vectors")
        raise AssertionError("the door ends a call that failed")

    async def EmbedSparseStream(
        self, request_iterator: AsyncIterator[pb.EmbedSparseRequest], context: Context
    ) -> pb.EmbedSparseResponse:
        """Not offered."""
        return await self.EmbedSparse(pb.EmbedSparseRequest(), context)

    async def EmbedAll(self, request: pb.EmbedAllRequest, context: Context) -> pb.EmbedAllResponse:
        """Not offered."""
        async with self._door.enter(context, "Embed/EmbedAll"):
            _no("one vector per token")
        raise AssertionError("the door ends a call that failed")

    async def EmbedAllStream(
        self, request_iterator: AsyncIterator[pb.EmbedAllRequest], context: Context
    ) -> pb.EmbedAllResponse:
        """Not offered."""
        return await self.EmbedAll(pb.EmbedAllRequest(), context)

    async def _encode(self, request: pb.EmbedRequest, caller: Caller, priority: Priority) -> tuple[Encoded, Embedded]:
        if request.truncation_direction == pb.TRUNCATION_DIRECTION_LEFT:
            raise InputError("texts are cut at their end only: leave truncation_direction out")
        options = EmbedOptions(
            kind=request.prompt_name if request.HasField("prompt_name") else "document",
            dimensions=request.dimensions if request.HasField("dimensions") else None,
            truncate="end" if request.truncate else "error",
            normalize=request.normalize if request.HasField("normalize") else True,
        )
        made = await self._model.embed([request.inputs], options, caller, priority)
        [item] = made.items
        if not isinstance(item, Encoded):
            raise item
        return item, made


class PredictService(stubs.PredictServicer):
    """tei.v1.Predict; no model here classifies."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        """Not offered."""
        return await self._refuse(context, "Predict")

    async def PredictPair(self, request: pb.PredictPairRequest, context: Context) -> pb.PredictResponse:
        """Not offered."""
        return await self._refuse(context, "PredictPair")

    async def PredictStream(
        self, request_iterator: AsyncIterator[pb.PredictRequest], context: Context
    ) -> pb.PredictResponse:
        """Not offered."""
        return await self._refuse(context, "PredictStream")

    async def PredictPairStream(
        self, request_iterator: AsyncIterator[pb.PredictPairRequest], context: Context
    ) -> pb.PredictResponse:
        """Not offered."""
        return await self._refuse(context, "PredictPairStream")

    async def _refuse(self, context: Context, method: str) -> pb.PredictResponse:
        async with self._door.enter(context, f"Predict/{method}"):
            _no("classification")
        raise AssertionError("the door ends a call that failed")


class RerankService(stubs.RerankServicer):
    """tei.v1.Rerank; no model here reranks."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Not offered."""
        return await self._refuse(context, "Rerank")

    async def RerankStream(
        self, request_iterator: AsyncIterator[pb.RerankStreamRequest], context: Context
    ) -> pb.RerankResponse:
        """Not offered."""
        return await self._refuse(context, "RerankStream")

    async def _refuse(self, context: Context, method: str) -> pb.RerankResponse:
        async with self._door.enter(context, f"Rerank/{method}"):
            _no("reranking")
        raise AssertionError("the door ends a call that failed")


class TokenizeService(stubs.TokenizeServicer):
    """tei.v1.Tokenize."""

    def __init__(self, door: Door, model: ServedModel) -> None:
        self._door = door
        self._model = model

    async def Tokenize(self, request: pb.EncodeRequest, context: Context) -> pb.EncodeResponse:
        """Say how the model sees a text."""
        async with self._door.enter(context, "Tokenize/Tokenize") as visit:
            visit.model = self._model.name
            return await asyncio.to_thread(self._tokens, request)
        raise AssertionError("the door ends a call that failed")

    async def TokenizeStream(
        self, request_iterator: AsyncIterator[pb.EncodeRequest], context: Context
    ) -> AsyncGenerator[pb.EncodeResponse]:
        """Tokenise text after text."""
        async with self._door.enter(context, "Tokenize/TokenizeStream"):
            async for request in request_iterator:
                yield await asyncio.to_thread(self._tokens, request)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """Turn token ids back into text."""
        async with self._door.enter(context, "Tokenize/Decode"):
            return self._text(request)
        raise AssertionError("the door ends a call that failed")

    async def DecodeStream(
        self, request_iterator: AsyncIterator[pb.DecodeRequest], context: Context
    ) -> AsyncGenerator[pb.DecodeResponse]:
        """Turn token ids back into text, message after message."""
        async with self._door.enter(context, "Tokenize/DecodeStream"):
            async for request in request_iterator:
                yield self._text(request)

    def _tokens(self, request: pb.EncodeRequest) -> pb.EncodeResponse:
        kind = request.prompt_name if request.HasField("prompt_name") else None
        return pb.EncodeResponse(
            tokens=[
                pb.SimpleToken(id=t.id, text=t.text, special=t.special, start=t.start, stop=t.stop)
                for t in simple_tokens(self._model.encoder, request.inputs, kind, special=request.add_special_tokens)
            ]
        )

    def _text(self, request: pb.DecodeRequest) -> pb.DecodeResponse:
        return pb.DecodeResponse(
            text=decode(self._model.encoder, request.ids, skip_special=request.skip_special_tokens)
        )


def _no(what: str) -> NoReturn:
    raise NotOffered(f"the model served here does not offer {what}")


def _metadata(text: str, item: Encoded, made: Embedded, seconds: float) -> pb.Metadata:
    return pb.Metadata(
        compute_chars=len(text),
        compute_tokens=item.tokens,
        total_time_ns=round(seconds * 1e9),
        tokenization_time_ns=round(made.tokenize_seconds * 1e9),
        queue_time_ns=round(made.queue_seconds * 1e9),
        inference_time_ns=round(made.encode_seconds * 1e9),
    )


def _timing_headers(metadata: pb.Metadata) -> tuple[tuple[str, str], ...]:
    return (
        ("x-compute-characters", str(metadata.compute_chars)),
        ("x-compute-tokens", str(metadata.compute_tokens)),
        ("x-total-time", str(metadata.total_time_ns // 1_000_000)),
        ("x-tokenization-time", str(metadata.tokenization_time_ns // 1_000_000)),
        ("x-queue-time", str(metadata.queue_time_ns // 1_000_000)),
        ("x-inference-time", str(metadata.inference_time_ns // 1_000_000)),
    )
