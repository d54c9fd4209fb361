from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import trustme

from decant.embedder import Encoder, InputError
from decant.index import Document
from decant.rag import Answer
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
        assert failed.value.index == 9 and str(failed.value) == "text 9 is empty: leave it out"
        with pytest.raises(InputError, match="text 1 is NoneType"):
            client.embed(["a", None])
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


def test_the_client_tokenizes(running: Any, encoder: Encoder) -> None:
    with Client(f"localhost:{running.server.grpc_port}") as client:
        [found] = client.tokenize("two words", without_special_tokens=True)
        assert list(found.ids) == encoder.tokenizer.encode("two words", add_special_tokens=False).ids
        assert list(found.starts)[0] == 0 and list(found.ends)[-1] == len("two words")
        with pytest.raises(CallFailed):
            client.tokenize("a", model="other")

    async def body() -> None:
        async with AsyncClient(f"localhost:{running.server.grpc_port}") as client:
            assert [list(part.ids) for part in await client.tokenize("two words", without_special_tokens=True)] == [
                list(found.ids)
            ]

    asyncio.run(body())


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


def test_both_clients_write_search_rank_ask_and_remove(run_server: Callable[..., Any], tmp_path: Path) -> None:
    stores = [{"name": "notes", "path": str(tmp_path / "notes"), "writable": True}]
    address = f"localhost:{run_server(stores=stores).server.grpc_port}"
    documents = [Document(f"d{i}", f"Note {i} is about whales.", metadata={"year": 1990 + i}) for i in range(5)]
    with Client(address) as client:
        assert client.upsert(iter(documents)).stored == 5
        [hit] = client.search("whales", mode="lexical", k=1, filter="metadata.year = 1993")
        assert hit.chunk.doc_id == "d3" and hit.metadata == {"year": 1993}
        ranked = client.rerank("whales", ["a", "whales"], top_n=1)
        assert len(ranked) == 1 and ranked[0].index in (0, 1)
        *pieces, answer = client.ask("What is note 3 about?")
        assert isinstance(answer, Answer) and "".join(map(str, pieces)) == answer.text
        assert client.delete(["d0", "absent"]) == 1
        with pytest.raises(CallFailed, match="no text"):
            client.upsert([Document("e", " ")])
        assert client.get("d3") == documents[3]
        with pytest.raises(CallFailed) as missing:
            client.get("d0")
        assert missing.value.code is grpc.StatusCode.NOT_FOUND
        mirrored = client.index([documents[1], Document("dx", "Another matter.")], prefix="d")
        assert (mirrored.stored, mirrored.removed) == (1, 3)
        assert client.get("d1") == documents[1] and client.get("dx").text == "Another matter."
        with pytest.raises(CallFailed, match="does not begin with 'd'"):
            client.index([Document("x", "Another matter.")], prefix="d")

    async def body() -> None:
        async with AsyncClient(address) as client:
            assert (await client.upsert(documents[:2])).stored == 1
            assert await client.delete(["d0"]) == 1
            assert await client.get("d1") == documents[1]
            assert (await client.index([documents[1]], prefix="d")).removed == 1
            assert [rank.index for rank in await client.rerank("a", ["b", "c"])] in ([0, 1], [1, 0])
            parts = [part async for part in client.ask("What is note 3 about?")]
            assert isinstance(parts[-1], Answer)
            with pytest.raises(CallFailed):
                await client.rerank("", ["a"])

    asyncio.run(body())


def test_the_client_takes_sparse_vectors(run_server: Callable[..., Any], sparse_encoder: Encoder) -> None:
    with Client(f"localhost:{run_server(of=sparse_encoder).server.grpc_port}") as client:
        made = client.embed(TEXTS[:5], outputs=("sparse",))
        both = client.embed(TEXTS[:5], outputs=("dense", "sparse"))
    expected = sparse_encoder.encode(TEXTS[:5], outputs=("dense", "sparse"))
    assert made.sparse is not None and both.sparse is not None and made.dense.shape == (5, 0)
    width = made.sparse.shape[1]
    for got in (made.sparse, both.sparse):
        assert np.abs(got.toarray() - expected.sparse.toarray()[:, :width]).max() <= 1e-6
    assert np.abs(both.dense - expected.dense).max() <= 1e-6


def test_the_client_speaks_tls(run_server: Callable[..., Any], tmp_path: Path) -> None:
    authority = trustme.CA()
    made = authority.issue_cert("localhost")
    for name, blob in (("cert", made.cert_chain_pems[0]), ("key", made.private_key_pem), ("ca", authority.cert_pem)):
        blob.write_to_path(tmp_path / name)
    server = run_server(tls_cert=tmp_path / "cert", tls_key=tmp_path / "key").server
    with Client(f"localhost:{server.grpc_port}", ca=tmp_path / "ca") as client:
        assert client.embed("a").dense.shape == (1, 32)
