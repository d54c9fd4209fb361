from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from decant.embedder import Encoder
from decant.service.mcp import make_mcp

mcp = pytest.importorskip("mcp", reason="the extra decant[mcp] is not installed")


@pytest.fixture
def asked(store: Path, encoder: Encoder) -> Callable[[Callable[[Any], Awaitable[Any]]], Any]:
    """Runs a conversation with the server, over its own protocol."""
    from decant.index import Store

    opened = Store.open(store, encoder=encoder, read_only=True)

    async def talk(work: Callable[[Any], Awaitable[Any]]) -> Any:
        async with mcp.Client(make_mcp(opened, encoder)) as client:
            return await work(client)

    return lambda work: asyncio.run(talk(work))


def test_it_offers_search_and_get_and_nothing_that_writes(asked: Any) -> None:
    listed = asked(lambda client: client.list_tools())
    assert [tool.name for tool in listed.tools] == ["search", "get"]
    assert set(listed.tools[0].input_schema["properties"]) == {"query", "k", "filter"}


def test_a_passage_is_what_the_document_holds_at_its_range(asked: Any) -> None:
    async def work(client: Any) -> tuple[Any, Any]:
        found = await client.call_tool("search", {"query": "committee budget", "k": 2})
        passage = found.structured_content["passages"][0]
        return passage, await client.call_tool("get", {"doc_id": passage["doc_id"]})

    passage, whole = asked(work)
    text = whole.structured_content["text"]
    assert text[passage["start_char"] : passage["end_char"]] == passage["text"]


@pytest.mark.parametrize(
    ("tool", "arguments", "word"),
    [
        ("get", {"doc_id": "nothing"}, "nothing"),
        ("search", {"query": " "}, "empty"),
        ("search", {"query": "a", "filter": "nonsense"}, "filter"),
    ],
)
def test_mistakes_are_told_to_the_assistant(asked: Any, tool: str, arguments: dict[str, Any], word: str) -> None:
    answer = asked(lambda client: client.call_tool(tool, arguments))
    assert answer.is_error and word in answer.content[0].text


@pytest.fixture
def command(tiny_model: Path, tmp_path: Path) -> list[str]:
    """`decant mcp` on a small store, without the program itself."""
    from decant.index import Document, Store
    from decant.index.batches import index_documents

    encoder = Encoder.load(tiny_model)
    with Store.open(tmp_path / "store", encoder=encoder, create=True) as made:
        index_documents(made, encoder, [Document("rivers", "Rivers carry water from the mountains to the sea.")])
    return ["-m", "decant.service.cli", "mcp", "--store", str(tmp_path / "store"), "--model", str(tiny_model)]


ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


async def found(server: Any) -> None:
    async with asyncio.timeout(90), mcp.Client(server) as client:
        answer = await client.call_tool("search", {"query": "rivers to the sea"})
        [passage] = answer.structured_content["passages"]
        assert passage["doc_id"] == "rivers" and passage["text"].startswith("Rivers carry water")


def test_an_assistant_that_starts_the_command_can_search(command: list[str], tmp_path: Path) -> None:
    asyncio.run(found(mcp.StdioServerParameters(command=sys.executable, args=command, env=ENVIRONMENT, cwd=tmp_path)))


def test_an_assistant_elsewhere_can_search_over_http(command: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    started = [sys.executable, *command, "--transport", "http", "--port", str(port)]
    with subprocess.Popen(started, env=ENVIRONMENT, cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            end = time.monotonic() + 90
            while process.poll() is None and not _listens(port):
                assert time.monotonic() < end
                time.sleep(0.1)
            asyncio.run(found(f"http://127.0.0.1:{port}/mcp"))
        finally:
            process.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0
