"""A whole server on loopback, on ports the system picks, with a tiny random model and a small store."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Coroutine, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
import pytest

from decant.embedder import Encoder, EncoderSpec
from decant.service.config import Settings
from decant.service.server import Server

T = TypeVar("T")

DOCUMENTS = {
    "rivers.txt": "Rivers carry water from the mountains to the sea.",
    "budget.txt": "The committee met on Tuesday and discussed the budget for three hours.",
    "code.txt": "def add(a, b): return a + b",
}


@pytest.fixture(scope="session")
def encoder(tiny_model: Path) -> Encoder:
    """float32, 32 dimensions or 16, at most 64 tokens, a prompt for queries."""
    spec = EncoderSpec(prompts={"query": "query: ", "document": ""}, append_eos=True, max_tokens=64, dimensions=(16,))
    return Encoder.load(tiny_model, device="cpu", dtype="float32", spec=spec)


@pytest.fixture(scope="session")
def store(encoder: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from decant.index import Store
    from decant.index.testing import indexed

    folder = tmp_path_factory.mktemp("served") / "store"
    with Store.open(folder, encoder=encoder, create=True) as opened, opened.writer():
        opened.replace([indexed(name, text, encoder, path=name) for name, text in DOCUMENTS.items()])
    return folder


@pytest.fixture(scope="session")
def sparse_encoder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """Dense and sparse vectors from a tiny random model with a language-model head."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from decant.embedder.spec import SparseSpec

    folder = tmp_path_factory.mktemp("sparse-model")
    torch.manual_seed(1)
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    spec = EncoderSpec(prompts={"query": "query: ", "document": ""}, max_tokens=64, sparse=SparseSpec())
    return Encoder.load(folder, device="cpu", dtype="float32", spec=spec)


@pytest.fixture(scope="session")
def mini() -> Encoder:
    """The model that ships with Decant: it knows what a text is about."""
    return Encoder.load(device="cpu", dtype="float32")


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Running:
    """A server on the event loop of a thread of its own."""

    def __init__(self, settings: Settings, encoder: Encoder, load: Any = None) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.server = self.do(self._made(settings, encoder, load))
        try:
            self.do(self.server.start())
        except BaseException:
            self._end()
            raise

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine where the server runs."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    def stop(self) -> None:
        self.do(self.server.stop())
        self._end()

    def _end(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()

    @contextmanager
    def channel(self, **options: Any) -> Generator[grpc.Channel]:
        with grpc.insecure_channel(f"127.0.0.1:{self.server.grpc_port}", **options) as channel:
            yield channel

    def http(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """POST a JSON body, bytes as they are; GET without one."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        url = f"http://127.0.0.1:{self.server.http_port}{path}"
        request = urllib.request.Request(url, data, {"content-type": "application/json", **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=20) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())

    @staticmethod
    async def _made(settings: Settings, encoder: Encoder, load: Any) -> Server:
        return Server(settings, encoder, load)


@pytest.fixture(scope="session")
def running(encoder: Encoder, store: Path) -> Generator[Running]:
    """A server that all tests share; none of them may stop it or leave work behind."""
    made = Running(Settings.load(store=store, name="tiny", grpc_port=0, http_port=0, max_texts=64), encoder)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def make_running() -> Callable[..., Running]:
    """`make_running(encoder, **settings)`: a server that the caller stops, for fixtures of wider scope."""

    def made(encoder: Encoder, **settings: Any) -> Running:
        return Running(Settings.load(**{"name": "tiny", "grpc_port": 0, "http_port": 0, **settings}), encoder)

    return made


@pytest.fixture
def run_server(encoder: Encoder) -> Generator[Callable[..., Running]]:
    """`run_server(**settings)`: a server of this test's own; `of` is its model, `load` makes the others."""
    servers: list[Running] = []

    def run(of: Encoder = encoder, load: Any = None, **settings: Any) -> Running:
        servers.append(Running(Settings.load(name="tiny", grpc_port=0, http_port=0, **settings), of, load))
        return servers[-1]

    yield run
    for server in servers:
        server.stop()
