"""The endpoint generator against a real HTTP server on loopback that misbehaves on demand."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from decant.index.documents import Chunk, Hit
from decant.rag import GeneratorError, Message, Source, Task
from decant.rag.generators.endpoint import EndpointGenerator, EndpointSettings

HIT = Hit(Chunk("d", 0, 0, 9, "Iron rust"), 1.0, "Metals", "m.txt", {}, {})
TASK = Task("Why?", "Why?", (Source(1, HIT, ()),), (Message("user", "Iron?"), Message("assistant", "Rusts.")))


class Endpoint(ThreadingHTTPServer):
    """Plays one script per request; the last one again and again."""

    daemon_threads = True

    def __init__(self, scripts: list[list[Any]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.scripts = scripts
        self.requests: list[tuple[dict[str, str], dict[str, Any]]] = []
        self.left = threading.Event()
        self.go_on = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append((dict(self.headers), body))
        script = self.server.scripts[min(len(self.server.requests), len(self.server.scripts)) - 1]
        status, *parts = script
        self.send_response(status)
        if status != 200:
            self.send_header("retry-after-ms", "1")
        self.end_headers()
        try:
            for part in parts:
                if part is WAIT:
                    self.server.go_on.wait(10)
                    continue
                self.wfile.write(part if isinstance(part, bytes) else event(part))
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            self.server.left.set()

    def log_message(self, *_: object) -> None:
        pass


WAIT = object()
DONE = b"data: [DONE]\n\n"


def event(value: object) -> bytes:
    if isinstance(value, str):
        value = {"choices": [{"delta": {"content": value}}]}
    return f"data: {json.dumps(value)}\n\n".encode()


@pytest.fixture
def serve() -> Iterator[Any]:
    servers: list[Endpoint] = []

    def start(*scripts: list[Any]) -> Endpoint:
        server = Endpoint(list(scripts))
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return server

    yield start
    for server in servers:
        server.go_on.set()
        server.shutdown()
        server.server_close()


def generator(server: Endpoint, **options: Any) -> EndpointGenerator:
    return EndpointGenerator(EndpointSettings(server.url, "m", **{"timeout_seconds": 5, **options}))


def test_text_comes_in_pieces_and_usage_is_told(serve):
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}
    server = serve([200, b": comment\n\n", "Iron ", "rusts.", {"choices": [], "usage": usage}, DONE])
    task = Task(TASK.question, TASK.query, TASK.sources, TASK.history)
    assert list(generator(server, key="secret").generate(task)) == ["Iron ", "rusts."]
    assert (task.meter.usage.prompt_tokens, task.meter.usage.cached_tokens) == (7, 4)
    [(headers, body)] = server.requests
    assert headers["Authorization"] == "Bearer secret"
    assert [message["role"] for message in body["messages"]] == ["system", "user", "assistant", "user"]
    assert "[1] Metals\nIron rust" in body["messages"][0]["content"]
    assert body["stream"] is True


def test_a_busy_endpoint_is_asked_again(serve):
    server = serve([503, b"busy"], [429, b"slow down"], [200, "Iron.", DONE])
    assert list(generator(server).generate(TASK)) == ["Iron."]
    assert len(server.requests) == 3


def test_an_endpoint_that_stays_busy_is_given_up_with_its_words(serve):
    server = serve([503, b"no memory\nleft"])
    with pytest.raises(GeneratorError, match=r"after 2 tries \(it answered 503 no memory left\)"):
        list(generator(server, retries=1).generate(TASK))


def test_a_refusal_is_not_repeated(serve):
    server = serve([401, b"bad key"])
    with pytest.raises(GeneratorError, match="refused: 401 bad key"):
        list(generator(server).generate(TASK))
    assert len(server.requests) == 1


def test_an_endpoint_that_is_down_says_so():
    with Endpoint([[200]]) as closed:
        url = closed.url
    down = EndpointGenerator(EndpointSettings(url, "m", retries=0))
    with pytest.raises(GeneratorError, match="cannot be used after 1 tries"):
        list(down.generate(TASK))


def test_silence_in_the_middle_ends_with_an_error_and_is_not_retried(serve):
    server = serve([200, "Iron ", WAIT])
    stream = generator(server, timeout_seconds=0.2).generate(TASK)
    assert next(stream) == "Iron "
    with pytest.raises(GeneratorError, match="was silent for 0.2 s"):
        next(stream)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        (["Iron "], "ended in the middle"),
        (["Iron ", {"error": {"message": "out of memory"}}], "out of memory"),
        (["Iron ", b"data: {oops\n\n"], "not JSON"),
        ([b"data: 3\n\n"], "failed midway"),
    ],
)
def test_what_goes_wrong_midway_is_told(serve, parts, reason):
    with pytest.raises(GeneratorError, match=reason):
        list(generator(serve([200, *parts])).generate(TASK))


def test_a_stream_that_is_left_closes_its_connection(serve):
    server = serve([200, "Iron ", WAIT, *["x" * 65536] * 400])
    stream = generator(server).generate(TASK)
    assert next(stream) == "Iron "
    stream.close()
    server.go_on.set()
    assert server.left.wait(10)


def test_an_address_that_is_none_is_refused_and_the_key_never_shown():
    with pytest.raises(GeneratorError, match="no address"):
        EndpointGenerator(EndpointSettings("localhost", "m"))
    assert "hunter2" not in repr(EndpointSettings("http://x", "m", key="hunter2"))
