from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs


def still_serves(channel: grpc.Channel) -> bool:
    return bool(stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["fine"]), timeout=20).embeddings[0].dense)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 15
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_a_message_that_is_no_protobuf_harms_nobody(running: Any) -> None:
    with running.channel() as channel:
        raw = channel.unary_unary("/decant.v1.Encoder/Embed")
        for message in (b"\xff" * 50, b"\x12\xff\xff\xff\xff\x0f", b"\x12\x02\xff\xfe"):
            with pytest.raises(grpc.RpcError):
                raw(message, timeout=20)
        assert still_serves(channel)


def test_a_message_that_is_too_large_is_refused(run_server: Callable[..., Any]) -> None:
    server = run_server(max_message_bytes=100_000)
    with server.channel() as channel:
        with pytest.raises(grpc.RpcError) as refused:
            stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["x" * 200_000]), timeout=20)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "retry-after-ms" not in dict(refused.value.trailing_metadata() or ())
        assert still_serves(channel)


def test_a_client_that_vanishes_in_a_stream_leaves_nothing_behind(running: Any) -> None:
    queue = running.server.model.queue

    def requests() -> Iterator[pb.EmbedStreamRequest]:
        for i in range(500):
            yield pb.EmbedStreamRequest(id=i, request=pb.EmbedRequest(texts=[f"text {i}"] * 64))

    channel = grpc.insecure_channel(f"127.0.0.1:{running.server.grpc_port}")
    stream = stubs.EncoderStub(channel).EmbedStream(requests())
    assert next(stream).id == 0
    channel.close()
    until(lambda: queue.requests() == 0 and queue.tokens() == 0)
    with running.channel() as other:
        assert still_serves(other)


def test_a_thousand_tiny_requests_at_once_are_all_answered(running: Any) -> None:
    with running.channel() as channel:
        encode = stubs.EncoderStub(channel)
        with ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda i: encode.Embed(pb.EmbedRequest(texts=[f"{i}"]), timeout=60), range(1000)))
    assert all(len(answer.embeddings[0].dense) == 128 for answer in answers)
