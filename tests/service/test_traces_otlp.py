"""Spans as they leave over OTLP, received by a collector on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs

pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
SECRET = "how deep is the river?"


class Collector(ThreadingHTTPServer):
    """Keeps what is posted to /v1/traces."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Collector)
        self.bodies: list[tuple[str, bytes]] = []

    def spans(self) -> list[Any]:
        from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

        requests = [ExportTraceServiceRequest.FromString(body) for _, body in self.bodies]
        resources = [resource for request in requests for resource in request.resource_spans]
        assert {pair.value.string_value for r in resources for pair in r.resource.attributes} >= {"decant"}
        return [span for resource in resources for scope in resource.scope_spans for span in scope.spans]


class _Collector(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.bodies.append((self.path, self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    made = Collector()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{made.server_port}")
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


def facts(span: Any) -> dict[str, Any]:
    return {pair.key: pair.value.string_value or pair.value.int_value for pair in span.attributes}


def test_spans_reach_a_collector_and_a_streams_span_ends_with_it(
    collector: Collector, make_running: Callable[..., Any], encoder: Any, store: Path
) -> None:
    server = make_running(encoder, traces="otlp", store=store)
    try:
        with server.channel() as channel:
            stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=[SECRET]))
            with pytest.raises(grpc.RpcError):
                stubs.EncoderStub(channel).Embed(pb.EmbedRequest())
        streamed = server.http("/ask", {"question": SECRET, "stream": True}, {"x-request-id": "mine"})
        refused = server.http("/ask", {"question": "", "stream": True})
        assert streamed.status == 200 and b"event: answer" in streamed.body and refused.status == 400
    finally:
        server.stop()  # what is left is sent
    spans = collector.spans()
    assert {path for path, _ in collector.bodies} == {"/v1/traces"}
    assert [span.name for span in spans] == ["decant.v1.Encoder/Embed"] * 2 + ["http.ask"] * 2
    assert [facts(span).get("http.response.status_code") for span in spans[2:]] == [200, 400]
    assert facts(spans[2])["decant.request_id"] == "mine"
    assert all(span.end_time_unix_nano > span.start_time_unix_nano for span in spans)
    assert SECRET.encode() not in b"".join(body for _, body in collector.bodies)
