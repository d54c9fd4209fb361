from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
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


def test_a_damaged_store_tells_clients_nothing_of_this_machine(
    run_server: Callable[..., Any], store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "hidden-folder"
    shutil.copytree(store, folder)
    server = run_server(store=folder)
    for file in folder.rglob("*.lance"):
        if file.is_file():
            file.write_bytes(b"")
    over_http = server.http("/search", {"query": "rivers", "mode": "lexical"}, {"x-request-id": "req-9"})
    assert over_http.status == 500 and over_http.headers["x-should-retry"] == "false"
    with server.channel() as channel, pytest.raises(grpc.RpcError) as failed:
        stubs.SearcherStub(channel).Search(pb.SearchRequest(query="rivers"))
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    for line in (over_http.body.decode(), failed.value.details()):
        assert "this store cannot be used" in line
        assert not any(word in line.lower() for word in ("hidden-folder", "lance", str(tmp_path)))
    assert "req-9" in over_http.body.decode()
    assert any("hidden-folder" in record.getMessage() for record in caplog.records)


def test_a_kernel_that_cannot_run_is_a_clean_error(
    run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from decant.kernels.dispatch import KernelError

    def broken(*_: object, **__: object) -> None:
        raise KernelError("the triton implementation of pooling cannot run: /opt/cache is full; choose torch")

    server = run_server()
    monkeypatch.setattr(server.server.model.encoder, "represent", broken)
    answer = server.http("/v1/embeddings", {"input": "a"})
    assert answer.status == 500 and answer.json["error"]["code"] == "compute_failed"
    assert "the model failed" in answer.json["error"]["message"] and "/opt" not in answer.body.decode()
    assert any("/opt/cache is full" in record.getMessage() for record in caplog.records)
