"""What those who run a server rely on: traces, logs without texts, tenants' limits, faults that stay small."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from decant.embedder import Encoder
from decant.service.backend import Refusals
from decant.service.cli.logs import JsonLines, log_as_json
from decant.service.errors import ServiceError
from decant.service.keys import hash_key
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs
from decant.service.tracing import OpenTelemetryTracer, make_tracer

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECRET = "the vault's code is 4711"


def test_a_call_is_a_span_of_its_callers_trace(run_server: Callable[..., Any]) -> None:
    memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    export = pytest.importorskip("opentelemetry.sdk.trace.export")
    kept = memory.InMemorySpanExporter()
    server = run_server()
    tracer = OpenTelemetryTracer(export.SimpleSpanProcessor(kept))
    # The doors hold the backend, which is frozen: this is the one place that needs another tracer behind them.
    object.__setattr__(server.server.backend, "tracer", tracer)
    with server.channel() as channel:
        metadata = (("traceparent", PARENT), ("x-request-id", "mine"))
        stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=[SECRET]), metadata=metadata)
        with pytest.raises(grpc.RpcError):
            stubs.EncoderStub(channel).Embed(pb.EmbedRequest(), metadata=metadata)
    server.http("/v1/embeddings", {"input": SECRET}, {"traceparent": PARENT})
    spans = kept.get_finished_spans()
    assert [span.name for span in spans] == ["decant.v1.Encoder/Embed"] * 2 + ["http.v1/embeddings"]
    assert {format(span.context.trace_id, "032x") for span in spans} == {PARENT.split("-")[1]}
    assert [span.attributes.get("rpc.grpc.status_code") for span in spans] == [0, 3, None]
    assert spans[2].attributes["http.response.status_code"] == 200
    assert SECRET not in "".join(span.to_json() for span in spans)


def test_traces_that_cannot_be_sent_name_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ServiceError, match="pip install"):
        make_tracer("otlp")


def logged(caplog: pytest.LogCaptureFixture, lines: int) -> list[logging.LogRecord]:
    """What was logged of calls, once there is as much as is expected: it is counted and logged behind the answer."""
    deadline = time.monotonic() + 10
    while True:
        records = [record for record in caplog.records if record.name == "decant.requests"]
        if len(records) >= lines or time.monotonic() > deadline:
            return records
        time.sleep(0.01)


@pytest.mark.parametrize(("wanted", "lines"), [("all", 3), ("failed", 1), ("none", 0)])
def test_calls_are_logged_as_wanted_and_never_with_their_texts(
    run_server: Callable[..., Any], caplog: pytest.LogCaptureFixture, wanted: str, lines: int
) -> None:
    server = run_server(log_requests=wanted)
    with caplog.at_level(logging.INFO, "decant.requests"):
        server.http("/v1/embeddings", {"input": SECRET}, {"x-request-id": "mine"})
        server.http("/v1/embeddings", {"input": [SECRET, ""]})
        with server.channel() as channel:
            stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=[SECRET]))
        records = logged(caplog, lines)
    assert len(records) == lines
    written = [json.loads(JsonLines().format(record)) for record in records]
    assert all(set(line) >= {"time", "level", "code", "milliseconds", "request_id", "tenant"} for line in written)
    assert "4711" not in json.dumps(written)


def test_a_full_server_does_not_write_a_line_for_every_refusal() -> None:
    now = 0.0
    refusals = Refusals(lambda: now)
    lines = [refusals.line() for _ in range(1000)]
    assert lines == [0, *[None] * 999]
    now = 1.5
    assert [refusals.line(), refusals.line()] == [999, None]


def test_what_is_kept_back_is_only_what_the_server_was_too_full_for(
    run_server: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    server = run_server(queued_tokens=4)
    queue = server.server.model.queue

    async def fill() -> None:
        queue._lanes.reserve(4)

    server.do(fill())
    with caplog.at_level(logging.INFO, "decant.requests"):
        assert [server.http("/v1/embeddings", {"input": "a"}).status for _ in range(3)] == [429] * 3
        assert [server.http("/v1/embeddings", {"input": ""}).status for _ in range(3)] == [400] * 3
        written = logged(caplog, 4)
    assert [record.__dict__["code"] for record in written] == ["429", "400", "400", "400"]
    assert written[0].__dict__["more_refused"] == 0


def test_the_log_is_written_by_a_thread_and_whole(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        with log_as_json("info"):
            for i in range(50):
                logging.getLogger("decant.a").info("line", extra={"number": i})
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert [json.loads(line)["number"] for line in capfd.readouterr().err.splitlines()] == list(range(50))


def test_a_tenant_at_its_limit_does_not_take_the_others_room(run_server: Callable[..., Any]) -> None:
    keys = [{"sha256": hash_key(name), "tenant": name} for name in ("small", "large")]
    server = run_server(api_keys=keys, tenants={"small": {"queued_tokens": 50}})
    small, large = ({"authorization": f"Bearer {name}"} for name in ("small", "large"))
    body = {"input": ["word " * 60] * 8}
    refused = server.http("/v1/embeddings", body, small)
    assert refused.status == 400 and "50" in refused.json["error"]["message"]
    assert server.http("/v1/embeddings", {"input": "word"}, small).status == 200
    assert server.http("/v1/embeddings", body, large).status == 200


def test_a_tenants_calls_per_minute_are_counted_at_both_doors(run_server: Callable[..., Any]) -> None:
    keys = [{"sha256": hash_key("k"), "tenant": "a"}]
    server = run_server(api_keys=keys, tenants={"a": {"requests_per_minute": 2}})
    header = {"authorization": "Bearer k"}
    assert server.http("/v1/embeddings", {"input": "a"}, header).status == 200
    with server.channel() as channel:
        metadata = (("authorization", "Bearer k"),)
        stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["a"]), metadata=metadata)
        with pytest.raises(grpc.RpcError) as refused:
            stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["a"]), metadata=metadata)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    again = server.http("/v1/embeddings", {"input": "a"}, header)
    assert again.status == 429 and 0 < int(again.headers["retry-after-ms"]) <= 30_000


def test_work_that_would_wait_too_long_is_refused_and_queries_are_not(
    run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = run_server(bulk_seconds=0.001, query_seconds=60.0)
    queue, engine = server.server.model.queue, server.server.model.engine
    server.http("/v1/embeddings", {"input": ["warm " * 60] * 8})
    gate, entered = threading.Event(), threading.Event()
    represent = engine.encoder.represent

    def slow(*args: Any, **options: Any) -> Any:
        entered.set()
        assert gate.wait(20)
        return represent(*args, **options)

    monkeypatch.setattr(engine.encoder, "represent", slow)
    answers: list[Any] = []

    def call(**body: Any) -> threading.Thread:
        thread = threading.Thread(target=lambda: answers.append(server.http("/v1/embeddings", body)))
        thread.start()
        return thread

    threads = [call(input=["first"])]
    assert entered.wait(20)
    threads.append(call(input=["second " * 50] * 20))
    end = time.monotonic() + 20
    while not queue.requests():
        assert time.monotonic() < end
        time.sleep(0.005)
    began = time.monotonic()
    refused = server.http("/v1/embeddings", {"input": ["third " * 50] * 20})
    assert refused.status == 429 and time.monotonic() - began < 5
    threads.append(call(input="a query", kind="query"))
    gate.set()
    for thread in threads:
        thread.join(30)
    assert [answer.status for answer in answers] == [200] * 3


def test_one_poisoned_text_fails_alone_in_a_batch_of_many(
    run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = run_server()
    engine = server.server.model.engine
    represent, poison = engine.encoder.represent, engine.encoder.tokenizer.encode("zzz").ids[0]

    def picky(tokenized: Any, *args: Any, **options: Any) -> Any:
        if any(poison in ids.tolist() for ids in tokenized.ids):
            raise RuntimeError("the device does not like this text")
        return represent(tokenized, *args, **options)

    monkeypatch.setattr(engine.encoder, "represent", picky)
    texts = [f"text {i}" for i in range(30)]
    texts[17] = "zzz"
    with server.channel() as channel:
        items = stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=texts)).embeddings
    assert [i for i, item in enumerate(items) if item.HasField("error")] == [17]
    assert all(item.dense for i, item in enumerate(items) if i != 17)


def mixed_texts(count: int) -> list[str]:
    """Texts of one token to more than the model takes."""
    chosen = random.Random(0)
    return [
        " ".join(f"{chosen.randrange(1000)}" for _ in range(1 + int(chosen.paretovariate(0.8)))) for _ in range(count)
    ]


def test_vectors_under_load_are_those_of_an_idle_server_to_the_last_bit(
    run_server: Callable[..., Any], encoder: Encoder
) -> None:
    server = run_server(query_seconds=600.0)
    texts = mixed_texts(48)
    idle = [encoder.encode([text]).dense.tobytes() for text in texts]  # type: ignore[union-attr]
    with server.channel() as channel:
        encode = stubs.EncoderStub(channel)
        assert [encode.Embed(pb.EmbedRequest(texts=[text])).embeddings[0].dense for text in texts] == idle
        calls = [encode.Embed.future(pb.EmbedRequest(texts=[text])) for text in texts for _ in range(3)]
        whole = encode.Embed.future(pb.EmbedRequest(texts=texts))
        assert [call.result().embeddings[0].dense for call in calls] == [vector for vector in idle for _ in range(3)]
        assert [item.dense for item in whole.result().embeddings] == idle


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_requests_are_all_answered_to_the_last_bit(run_server: Callable[..., Any], mini: Encoder) -> None:
    server = run_server(mini, query_seconds=600.0)
    queue = server.server.model.queue
    texts = mixed_texts(1000)
    idle = [mini.encode([text]).dense.tobytes() for text in texts]  # type: ignore[union-attr]
    with server.channel() as channel:
        encode = stubs.EncoderStub(channel)

        def client(first: int) -> list[int]:
            mine = range(first, 10_000, 64)
            answers = [encode.Embed(pb.EmbedRequest(texts=[texts[i % 1000]]), timeout=600) for i in mine]
            return [i for i, a in zip(mine, answers, strict=True) if a.embeddings[0].dense != idle[i % 1000]]

        with ThreadPoolExecutor(64) as threads:
            wrong = [i for found in threads.map(client, range(64)) for i in found]
    assert wrong == []
    assert queue.requests() == 0 and queue.tokens() == 0


def test_a_half_open_connection_and_a_slow_reader_hold_nobody_up(run_server: Callable[..., Any]) -> None:
    server = run_server()
    port = server.server.http_port
    head = (
        b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
    )
    opened = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(20)]
    silent = [socket.create_connection(("127.0.0.1", server.server.grpc_port), timeout=10) for _ in range(20)]
    try:
        for connection in opened:
            connection.sendall(head + b'content-length: 100000\r\n\r\n{"input": ["never')
        for connection in silent:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert server.http("/v1/embeddings", {"input": "a"}).status == 200
        with server.channel() as channel:
            encode = stubs.EncoderStub(channel)
            requests = (pb.EmbedStreamRequest(id=i, request=pb.EmbedRequest(texts=["x"] * 16)) for i in range(1000))
            unread = encode.EmbedStream(requests)
            assert next(unread).id == 0
            assert encode.Embed(pb.EmbedRequest(texts=["a"]), timeout=20).embeddings[0].dense
            assert server.server.model.queue.requests() <= 16
            unread.cancel()
    finally:
        for connection in [*opened, *silent]:
            connection.close()


def test_a_message_of_a_hundred_megabytes_is_refused_and_not_kept(run_server: Callable[..., Any]) -> None:
    server = run_server()
    body = b'{"input": "' + b"a" * (100 * 2**20) + b'"}'
    try:
        answer = server.http("/v1/embeddings", body)
        assert answer.status == 413
    except OSError:
        pass  # the server hung up on the rest of the body, which is its right
    assert server.http("/v1/embeddings", {"input": "a"}).status == 200


def test_one_process_shows_its_own_metrics_at_a_port_of_its_own(
    encoder: Encoder, make_running: Callable[..., Any]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = make_running(encoder, metrics_port=port)
    try:
        server.http("/v1/embeddings", {"input": "a"})
        counted = 'decant_requests_total{code="200",method="v1/embeddings",model="tiny",protocol="http"} 1.0'
        lines: list[str] = []
        deadline = time.monotonic() + 10
        while counted not in lines and time.monotonic() < deadline:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=20) as answer:
                lines = answer.read().decode().splitlines()
        assert counted in lines
        with pytest.raises(ServiceError, match="choose another metrics_port"):
            make_running(encoder, metrics_port=port)
    finally:
        server.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


def test_deadlines_do_not_go_by_the_date(run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    server = run_server()
    date = time.time
    for jump in (-1e8, 1e8):
        monkeypatch.setattr(time, "time", lambda jump=jump: date() + jump)
        assert server.http("/v1/embeddings", {"input": "a"}).status == 200
        with server.channel() as channel:
            assert stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["a"])).embeddings[0].dense


def test_two_servers_share_a_port_only_where_that_is_asked(
    run_server: Callable[..., Any], encoder: Encoder, tmp_path: Path
) -> None:
    from decant.service.server import Server

    first = run_server(reuse_port=True)
    ports = {"grpc_port": first.server.grpc_port, "http_port": first.server.http_port}
    settings = first.server.settings.model_copy(update=ports)

    async def both() -> None:
        second = Server(settings, encoder)
        await second.start()
        await second.stop()

    first.do(both())
    assert first.http("/v1/embeddings", {"input": "a"}).status == 200

    async def alone() -> None:
        await Server(settings.model_copy(update={"reuse_port": False}), encoder).start()

    with pytest.raises(ServiceError, match="cannot listen"):
        first.do(alone())


def test_what_is_loaded_is_set_aside_from_garbage_collection(encoder: Encoder) -> None:
    from decant.service.config import Settings
    from decant.service.server import Server, serve

    set_aside: list[int] = []

    def ready(server: Server) -> None:
        del server
        set_aside.append(gc.get_freeze_count())
        os.kill(os.getpid(), signal.SIGTERM)

    before = gc.get_freeze_count()
    try:
        asyncio.run(serve(Settings(grpc_port=0, http_port=0, linger_seconds=0), encoder, ready))
    finally:
        gc.unfreeze()
    assert set_aside[0] > before + 10_000
