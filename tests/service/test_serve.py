from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

from decant.embedder import Encoder
from decant.service.config import ConfigError, Settings
from decant.service.errors import ServiceError
from decant.service.keys import hash_key
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs

COMMAND = [sys.executable, "-m", "decant.service.cli", "serve", "--grpc-port", "0", "--http-port", "0"]


class Process:
    """`decant serve` as a user runs it."""

    def __init__(self, folder: Path, *arguments: str, environment: Sequence[tuple[str, str]] = ()) -> None:
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", **dict(environment)}
        self.process = subprocess.Popen(
            [*COMMAND, *arguments], cwd=folder, env=variables, stderr=subprocess.PIPE, text=True
        )
        self.ready = self.read("ready")

    def read(self, message: str) -> dict[str, Any]:
        """The next log line with this message."""
        assert self.process.stderr is not None
        seen = ""
        for line in self.process.stderr:
            seen += line
            if line.startswith("{") and (record := json.loads(line))["message"] == message:
                return record
        raise AssertionError(f"no line {message!r} in:\n{seen}")

    def end(self) -> None:
        """Whatever it is doing."""
        self.process.kill()
        self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


@pytest.fixture
def process(tiny_model: Path, tmp_path: Path) -> Iterator[Process]:
    served = Process(tmp_path, "--model", str(tiny_model), "--dtype", "float32")
    yield served
    served.end()


def test_sigterm_under_load_loses_no_accepted_request(process: Process) -> None:
    answered, lost = 0, list[str]()
    lock, busy = threading.Lock(), threading.Event()
    texts = [f"text {i} " * 20 for i in range(16)]

    def client() -> None:
        nonlocal answered
        with grpc.insecure_channel(f"127.0.0.1:{process.ready['grpc_port']}") as channel:
            encode = stubs.EncoderStub(channel)
            while True:
                try:
                    response = encode.Embed(pb.EmbedRequest(texts=texts), timeout=30)
                except grpc.RpcError as error:
                    with lock:
                        # Refused before it was accepted: another server may be asked.
                        if error.code() is not grpc.StatusCode.UNAVAILABLE:
                            lost.append(f"{error.code()}: {error.details()}")
                    return
                with lock:
                    answered += sum(bool(item.dense) for item in response.embeddings) == len(texts)
                    if answered >= 20:
                        busy.set()

    threads = [threading.Thread(target=client) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert busy.wait(90), lost
    assert process.ready["page"] == f"http://127.0.0.1:{process.ready['http_port']}/"
    process.process.send_signal(signal.SIGTERM)
    stopped = process.read("stopped")
    for thread in threads:
        thread.join(30)
    assert process.process.wait(20) == 0
    assert lost == []
    # The probe of the health service is a request too, answered like any other.
    assert stopped["accepted"] == stopped["answered"]
    assert 0 <= stopped["answered"] - answered <= 2


def test_leaving_is_said_before_calls_are_refused(run_server: Callable[..., Any]) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    server = run_server(linger_seconds=1.0)
    with server.channel() as channel:
        health, encode = health_pb2_grpc.HealthStub(channel), stubs.EncoderStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="decant.v1.Encoder"))
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=server.do, args=(server.server.stop(),))
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert server.http("/health").status == 503
        assert encode.Embed(pb.EmbedRequest(texts=["still served"])).embeddings[0].dense
        watch.cancel()
        stopping.join(20)
        with pytest.raises(grpc.RpcError) as refused:
            encode.Embed(pb.EmbedRequest(texts=["late"]), timeout=5)
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_a_port_in_use_is_one_line(running: Any, encoder: Any, run_server: Callable[..., Any]) -> None:
    from decant.service.server import Server

    async def start(**ports: int) -> None:
        await Server(Settings.load(**ports), encoder).start()

    with pytest.raises(ServiceError, match="--grpc-port"):
        running.do(start(grpc_port=running.server.grpc_port, http_port=0))
    with pytest.raises(ServiceError, match="--http-port"):
        running.do(start(http_port=running.server.http_port, grpc_port=0))


def test_flags_come_before_variables_before_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "decant.toml"
    file.write_text('host = "0.0.0.0"\ngrpc_port = 1\nhttp_port = 2\nmax_texts = 3\n')
    monkeypatch.setenv("DECANT_HTTP_PORT", "20")
    monkeypatch.setenv("DECANT_GRPC_PORT", "10")
    made = Settings.load(file, grpc_port=100, device=None)
    assert (made.grpc_port, made.http_port, made.host, made.max_texts) == (100, 20, "0.0.0.0", 3)
    assert made.request_seconds == Settings.load().request_seconds


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("http_port = 70000", "http_port"),
        ("nonsense = 1", "there is no setting nonsense$"),
        ("queued_token = 1", "is queued_tokens meant"),
        ('generator = "http://localhost:1/v1"', "^an endpoint needs"),
        ("kv_reuse = 0", "kv_reuse"),
        ("http_port = ", "configuration"),
        ('[[api_keys]]\nsha256 = "the key itself"\ntenant = "a"', "hash"),
        (f'[[api_keys]]\nsha256 = "{"a" * 64}"\ntenant = "../b"', "tenant"),
        ('store = "a"\n[[stores]]\nname = "default"\npath = "b"', "same name"),
        ('[[models]]\nname = "a/b"', "name"),
        ("[tenants.stranger]\nqueued_tokens = 5", "no API key"),
    ],
)
def test_a_setting_that_makes_no_sense_is_named(tmp_path: Path, text: str, word: str) -> None:
    file = tmp_path / "decant.toml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=word) as refused:
        Settings.load(file)
    assert "\n" not in str(refused.value)
    with pytest.raises(ConfigError, match="--config"):
        Settings.load(tmp_path / "absent.toml")


@pytest.mark.parametrize(
    ("host", "page"),
    [("0.0.0.0", "http://127.0.0.1:80/"), ("::", "http://[::1]:80/"), ("box.example", "http://box.example:80/")],
)
def test_the_page_has_an_address_that_a_browser_here_can_open(host: str, page: str) -> None:
    assert Settings.load(host=host).page(80) == page


def test_a_variable_that_is_nearly_a_settings_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DECANT_GENERATOR_KEY", "known, and no setting")
    monkeypatch.setenv("DECANT_ELSEWHERE", "anybody's")
    Settings.load()
    monkeypatch.setenv("DECANT_QUEUED_TOKEN", "5")
    with pytest.raises(ConfigError, match="no setting DECANT_QUEUED_TOKEN: is DECANT_QUEUED_TOKENS meant"):
        Settings.load()


def test_printed_settings_are_a_file_without_whole_hashes(tmp_path: Path) -> None:
    made = Settings.load(http_port=5, api_keys=[{"sha256": hash_key("secret"), "tenant": "a"}])
    shown = made.shown()
    assert hash_key("secret") not in json.dumps(shown) and shown["api_keys"][0]["tenant"] == "a"
    file = tmp_path / "decant.json"
    file.write_text(json.dumps({**shown, "api_keys": []}))
    assert Settings.load(file).http_port == 5


@pytest.mark.slow
def test_a_worker_killed_under_load_loses_only_what_it_had_accepted(tiny_model: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    metrics = ("DECANT_METRICS_PORT", str(port))
    served = Process(
        tmp_path, "--model", str(tiny_model), "--dtype", "float32", "--workers", "2", environment=[metrics]
    )
    wrong, answered, enough = list[str](), [0] * 8, threading.Event()
    over = threading.Event()
    alone = Encoder.load(tiny_model, dtype="float32").encode(["text"]).dense
    assert alone is not None

    def client(number: int) -> None:
        address = f"127.0.0.1:{served.ready['grpc_port']}"
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            encode = stubs.EncoderStub(channel)
            while not over.is_set():
                try:
                    made = encode.Embed(pb.EmbedRequest(texts=["text"] * 4), timeout=30, wait_for_ready=True)
                except grpc.RpcError as error:
                    # Its connection broke: a call that may be made again.
                    if error.code() is not grpc.StatusCode.UNAVAILABLE:
                        wrong.append(f"{error.code()}: {error.details()}")
                    continue
                wrong.extend("vector" for item in made.embeddings if item.dense != alone.tobytes())
                answered[number] += 1
                if min(answered) >= 10:
                    enough.set()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    try:
        for thread in threads:
            thread.start()
        assert enough.wait(60)
        os.kill(worker_pids(served)[0], signal.SIGKILL)
        assert served.read("a process died and is started again")["worker"] == 0
        before = list(answered)
        enough.clear()
        end = time.monotonic() + 60
        while any(now <= then for now, then in zip(answered, before, strict=True)):
            assert time.monotonic() < end
            time.sleep(0.01)
        # Each process counts for itself.
        with urllib.request.urlopen(f"http://127.0.0.1:{port + 1}/metrics", timeout=20) as shown:
            assert b'code="OK"' in shown.read()
        over.set()
        for thread in threads:
            thread.join(60)
        assert wrong == []
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(40) == 0
    finally:
        over.set()
        served.end()


def worker_pids(served: Process) -> list[int]:
    children = Path(f"/proc/{served.process.pid}/task/{served.process.pid}/children").read_text().split()
    return [pid for pid in map(int, children) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_the_others_go_on(tiny_model: Path, tmp_path: Path) -> None:
    served = Process(tmp_path, "--model", str(tiny_model), "--dtype", "float32", "--workers", "2")
    try:
        address = f"127.0.0.1:{served.ready['grpc_port']}"
        workers = worker_pids(served)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        for _ in range(20):
            # A connection to the dead one's port is the living one's: every call is answered.
            with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
                request = pb.EmbedRequest(texts=["a"])
                assert stubs.EncoderStub(channel).Embed(request, timeout=20, wait_for_ready=True).embeddings[0].dense
        assert served.read("a process died and is started again")["worker"] == 0
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(40) == 0
    finally:
        served.end()
