"""tei.v1: the protocol of text-embeddings-inference, with its defaults: no truncation unless asked for, unit vectors.

One rule is stricter than there: `dimensions` must be a width the model was trained for. Truncation is reported in the
trailing metadata `x-decant-truncated`, since the messages have no place for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from importlib.metadata import version
from typing import NoReturn, TypeVar

from ...embedder import InputError
from ..caller import Caller
from ..engine import SPARSE, STATES, EmbedOptions, Encoded
from ..errors import NotOffered
from ..models import Embedded, Models, ServedModel
from ..proto.tei.v1 import tei_pb2 as pb
from ..proto.tei.v1 import tei_pb2_grpc as stubs
from ..queue import Priority
from ..tokens import decode, simple_tokens
from .door import Context, Door, Visit
from .streams import ordered

Q = TypeVar("Q", pb.EmbedRequest, pb.EmbedSparseRequest, pb.EmbedAllRequest)
A = TypeVar("A", pb.EmbedResponse, pb.EmbedSparseResponse, pb.EmbedAllResponse)


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
        return await self._one(request, context, "Embed", _dense_options, _dense_response)

    async def EmbedStream(
        self, request_iterator: AsyncIterator[pb.EmbedRequest], context: Context
    ) -> AsyncGenerator[pb.EmbedResponse]:
        """Encode text after text; the first that fails ends the stream."""
        async for response in self._many(request_iterator, context, "EmbedStream", _dense_options, _dense_response):
            yield response

    async def EmbedSparse(self, request: pb.EmbedSparseRequest, context: Context) -> pb.EmbedSparseResponse:
        """Encode one text as weighted terms."""
        return await self._one(request, context, "EmbedSparse", _sparse_options, _sparse_response)

    async def EmbedSparseStream(
        self, request_iterator: AsyncIterator[pb.EmbedSparseRequest], context: Context
    ) -> AsyncGenerator[pb.EmbedSparseResponse]:
        """Encode text after text as weighted terms."""
        requests = request_iterator
        async for response in self._many(requests, context, "EmbedSparseStream", _sparse_options, _sparse_response):
            yield response

    async def EmbedAll(self, request: pb.EmbedAllRequest, context: Context) -> pb.EmbedAllResponse:
        """Encode every token of one text."""
        return await self._one(request, context, "EmbedAll", _states_options, _states_response)

    async def EmbedAllStream(
        self, request_iterator: AsyncIterator[pb.EmbedAllRequest], context: Context
    ) -> AsyncGenerator[pb.EmbedAllResponse]:
        """Encode every token, text after text."""
        requests = request_iterator
        async for response in self._many(requests, context, "EmbedAllStream", _states_options, _states_response):
            yield response

    async def _one(
        self,
        request: Q,
        context: Context,
        method: str,
        options: Callable[[Q], EmbedOptions],
        respond: Callable[[Encoded, pb.Metadata], A],
    ) -> A:
        async with self._door.enter(context, f"Embed/{method}") as visit:
            visit.model = self._model.name
            item, made = await self._encode(request, options, visit.caller, Priority.QUERY)
            metadata = _metadata(request.inputs, item, made, visit.elapsed())
            await context.send_initial_metadata(_timing_headers(metadata))
            truncated = str(item.truncated).lower()
            context.set_trailing_metadata(
                (("x-request-id", visit.caller.request_id), ("x-decant-truncated", truncated))
            )
            return respond(item, metadata)
        raise AssertionError("the door ends a call that failed")

    async def _many(
        self,
        requests: AsyncIterator[Q],
        context: Context,
        method: str,
        options: Callable[[Q], EmbedOptions],
        respond: Callable[[Encoded, pb.Metadata], A],
    ) -> AsyncGenerator[A]:
        async with self._door.enter(context, f"Embed/{method}") as visit:
            visit.model = self._model.name
            origin = visit.caller

            async def answer(request: Q) -> A:
                began = asyncio.get_running_loop().time()
                item, made = await self._encode(request, options, self._door.renewed(origin), Priority.BULK)
                seconds = asyncio.get_running_loop().time() - began
                return respond(item, _metadata(request.inputs, item, made, seconds))

            # One text per message: many must be in work at once for a batch to form.
            async for response in ordered(requests, answer, window=256):
                yield response

    async def _encode(
        self, request: Q, options: Callable[[Q], EmbedOptions], caller: Caller, priority: Priority
    ) -> tuple[Encoded, Embedded]:
        if request.truncation_direction == pb.TRUNCATION_DIRECTION_LEFT:
            raise InputError("texts are cut at their end only: leave truncation_direction out")
        made = await self._model.embed([request.inputs], options(request), caller, priority)
        [item] = made.items
        if not isinstance(item, Encoded):
            raise item
        return item, made


def _dense_options(request: pb.EmbedRequest) -> EmbedOptions:
    return EmbedOptions(
        kind=request.prompt_name if request.HasField("prompt_name") else "document",
        dimensions=request.dimensions if request.HasField("dimensions") else None,
        truncate="end" if request.truncate else "error",
        normalize=request.normalize if request.HasField("normalize") else True,
    )


def _sparse_options(request: pb.EmbedSparseRequest) -> EmbedOptions:
    return _other_options(request, SPARSE)


def _states_options(request: pb.EmbedAllRequest) -> EmbedOptions:
    return _other_options(request, STATES)


def _other_options(request: pb.EmbedSparseRequest | pb.EmbedAllRequest, output: str) -> EmbedOptions:
    return EmbedOptions(
        kind=request.prompt_name if request.HasField("prompt_name") else "document",
        truncate="end" if request.truncate else "error",
        outputs=(output,),
    )


def _dense_response(item: Encoded, metadata: pb.Metadata) -> pb.EmbedResponse:
    return pb.EmbedResponse(embeddings=item.vector, metadata=metadata)


def _sparse_response(item: Encoded, metadata: pb.Metadata) -> pb.EmbedSparseResponse:
    assert item.sparse is not None
    terms = zip(item.sparse.terms.tolist(), item.sparse.weights.tolist(), strict=True)
    values = [pb.SparseValue(index=term, value=weight) for term, weight in terms]
    return pb.EmbedSparseResponse(sparse_embeddings=values, metadata=metadata)


def _states_response(item: Encoded, metadata: pb.Metadata) -> pb.EmbedAllResponse:
    assert item.states is not None
    rows = [pb.TokenEmbedding(embeddings=row) for row in item.states]
    return pb.EmbedAllResponse(token_embeddings=rows, metadata=metadata)


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
    """tei.v1.Rerank; scores are between 0 and 1 unless raw ones are asked for."""

    def __init__(self, door: Door, models: Models) -> None:
        self._door = door
        self._models = models

    async def Rerank(self, request: pb.RerankRequest, context: Context) -> pb.RerankResponse:
        """Order texts by how well they answer a question."""
        async with self._door.enter(context, "Rerank/Rerank") as visit:
            return await self._ranked(request, visit)
        raise AssertionError("the door ends a call that failed")

    async def RerankStream(
        self, request_iterator: AsyncIterator[pb.RerankStreamRequest], context: Context
    ) -> pb.RerankResponse:
        """Order texts that come one by one; the first message's options and question are those of all."""
        async with self._door.enter(context, "Rerank/RerankStream") as visit:
            whole: pb.RerankRequest | None = None
            async for message in request_iterator:
                if whole is None:
                    whole = pb.RerankRequest(
                        query=message.query,
                        truncate=message.truncate,
                        raw_scores=message.raw_scores,
                        return_text=message.return_text,
                        truncation_direction=message.truncation_direction,
                    )
                whole.texts.append(message.text)
                self._models.default.check_count(len(whole.texts))
            return await self._ranked(whole or pb.RerankRequest(), visit)
        raise AssertionError("the door ends a call that failed")

    async def _ranked(self, request: pb.RerankRequest, visit: Visit) -> pb.RerankResponse:
        if request.truncation_direction == pb.TRUNCATION_DIRECTION_LEFT:
            raise InputError("texts are cut at their end only: leave truncation_direction out")
        reranker = self._models.reranker("")
        visit.model = reranker.name
        truncate = "end" if request.truncate else "error"
        scores = await reranker.scores(request.query, request.texts, truncate, visit.caller)
        values = scores.raw if request.raw_scores else scores.unit
        ranks = [
            pb.Rank(index=i, score=float(values[i]), text=request.texts[i] if request.return_text else None)
            for i in scores.order()
        ]
        metadata = pb.Metadata(
            compute_chars=len(request.query) + sum(map(len, request.texts)),
            compute_tokens=scores.tokens,
            total_time_ns=round(visit.elapsed() * 1e9),
            tokenization_time_ns=round(scores.tokenize_seconds * 1e9),
            queue_time_ns=round(scores.queue_seconds * 1e9),
            inference_time_ns=round(scores.encode_seconds * 1e9),
        )
        return pb.RerankResponse(ranks=ranks, metadata=metadata)


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
