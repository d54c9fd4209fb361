from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from decant.embedder import Encoder
from decant.service.client import AsyncClient, CallFailed, Client, TextFailed

TEXTS = [f"text number {i} " * (1 + i % 6) for i in range(50)]


def test_a_long_list_is_sent_in_parts_and_comes_back_whole(running: Any, encoder: Encoder) -> None:
    with Client(f"localhost:{running.server.grpc_port}", batch_texts=7, in_flight=2) as client:
        made = client.embed(TEXTS, kind="query")
    expected = encoder.encode(TEXTS, kind="query")
    assert np.abs(made.dense - expected.dense).max() <= 1e-6
    assert made.tokens.tolist() == expected.tokens.tolist() and made.truncated.tolist() == expected.truncated.tolist()
    assert (made.model, made.fingerprint) == ("tiny", encoder.fingerprint)


@pytest.mark.parametrize(("form", "bound"), [("float16", 1e-3), ("int8", 5e-3)])
def test_formats_arrive_as_float32(running: Any, encoder: Encoder, form: str, bound: float) -> None:
    with Client(f"localhost:{running.server.grpc_port}") as client:
        made = client.embed(TEXTS[:5], format=form, dimensions=16).dense
    assert made.dtype == np.float32
    assert np.abs(made - encoder.encode(TEXTS[:5], dimensions=16).dense).max() <= bound


def test_a_text_that_fails_is_named_or_kept(running: Any) -> None:
    texts = [*TEXTS[:9], "", "fine"]
    with Client(f"localhost:{running.server.grpc_port}", batch_texts=4) as client:
        with pytest.raises(TextFailed) as failed:
            client.embed(texts)
        assert failed.value.index == 9
        kept = client.embed(texts, keep_errors=True)
    assert list(kept.errors) == [9]
    assert np.isnan(kept.dense[9]).all() and np.isfinite(np.delete(kept.dense, 9, axis=0)).all()


def test_a_refused_call_is_one_line(running: Any) -> None:
    with (
        Client(f"localhost:{running.server.grpc_port}") as client,
        pytest.raises(CallFailed, match="not trained") as refused,
    ):
        client.embed("a", dimensions=3)
    assert refused.value.code is grpc.StatusCode.INVALID_ARGUMENT


def test_search_and_models(running: Any) -> None:
    with Client(f"localhost:{running.server.grpc_port}") as client:
        [hit] = client.search("committee budget", mode="lexical", k=1)
        assert hit.path == "budget.txt" and hit.chunk.text and hit.ranks == {"lexical": 1}
        assert [model.name for model in client.models()] == ["tiny"]


def test_the_async_client_does_the_same(running: Any, encoder: Encoder) -> None:
    async def main() -> None:
        async with AsyncClient(f"localhost:{running.server.grpc_port}", batch_texts=7) as client:
            made = await client.embed(TEXTS)
            assert np.abs(made.dense - encoder.encode(TEXTS).dense).max() <= 1e-6
            assert len(await client.search("rivers", mode="dense", k=2)) == 2
            assert [model.name for model in await client.models()] == ["tiny"]
            with pytest.raises(CallFailed):
                await client.embed("a", model="other")

    asyncio.run(main())


def test_a_full_server_is_asked_again(run_server: Callable[..., Any]) -> None:
    small = run_server(queued_tokens=140)
    queue = small.server.model.queue

    async def occupy() -> None:
        queue._lanes.reserve(100)
        small.loop.call_later(0.3, queue._lanes.release, 100)

    small.do(occupy())
    with Client(f"localhost:{small.server.grpc_port}") as client:
        assert client.embed(["water " * 60]).dense.shape == (1, 32)
    assert small.server.metrics.dropped.labels("overloaded")._value.get() >= 1
