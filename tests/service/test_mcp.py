from __future__ import annotations

import asyncio
import os
import sys
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


def test_an_assistant_that_starts_the_command_can_search(tiny_model: Path, tmp_path: Path) -> None:
    from decant.index import Document, Store
    from decant.index.batches import index_documents

    encoder = Encoder.load(tiny_model)
    with Store.open(tmp_path / "store", encoder=encoder, create=True) as made:
        index_documents(made, encoder, [Document("rivers", "Rivers carry water from the mountains to the sea.")])
    command = ["-m", "decant.service.cli", "mcp", "--store", str(tmp_path / "store"), "--model", str(tiny_model)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    program = mcp.StdioServerParameters(command=sys.executable, args=command, env=environment, cwd=tmp_path)

    async def talk() -> Any:
        async with asyncio.timeout(90), mcp.Client(program) as client:
            return await client.call_tool("search", {"query": "rivers to the sea"})

    [passage] = asyncio.run(talk()).structured_content["passages"]
    assert passage["doc_id"] == "rivers" and passage["text"].startswith("Rivers carry water")
