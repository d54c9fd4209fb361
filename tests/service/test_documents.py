from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from decant.service.keys import hash_key
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs

A, B = (("authorization", "Bearer alpha"),), (("authorization", "Bearer beta"),)
EVERYTHING = ["embed", "search", "ask", "index"]


def documents(texts: dict[str, str], store: str = "", prefix: str = "") -> Iterator[pb.IndexRequest]:
    yield pb.IndexRequest(store=store, prefix=prefix)
    for doc_id, text in texts.items():
        yield pb.IndexRequest(document=pb.Document(doc_id=doc_id, text=text, metadata={"year": pb.Value(integer=1999)}))


def found(channel: grpc.Channel, query: str, metadata: Any = ()) -> list[str]:
    request = pb.SearchRequest(query=query, modes=[pb.SEARCH_MODE_LEXICAL])
    return [hit.doc_id for hit in stubs.SearcherStub(channel).Search(request, metadata=metadata).hits]


def test_documents_come_change_and_go(run_server: Callable[..., Any], tmp_path: Path) -> None:
    stores = [{"name": "notes", "path": str(tmp_path / "notes"), "writable": True}]
    server = run_server(stores=stores)
    with server.channel() as channel:
        index = stubs.IndexerStub(channel)
        texts = {f"news/{i}": f"Story number {i} speaks of whales." for i in range(100)}
        made = index.Upsert(documents({**texts, "other": "A word about tea."}))
        assert (made.stored, made.unchanged, made.removed) == (101, 0, 0)
        again = index.Upsert(documents({"other": "A word about tea."}))
        assert (again.stored, again.unchanged) == (0, 1)
        assert index.Upsert(documents({"other": "A word about coffee."})).stored == 1
        assert found(channel, "coffee") == ["other"] and found(channel, "tea") == []
        whole = index.Index(documents({"news/1": texts["news/1"], "news/x": "Only this is new."}, prefix="news/"))
        assert (whole.stored, whole.unchanged, whole.removed) == (1, 1, 99)
        assert found(channel, "whales") == ["news/1"] and found(channel, "coffee") == ["other"]
        filtered = stubs.SearcherStub(channel).Search(pb.SearchRequest(query="whales", filter="metadata.year = 1999"))
        assert filtered.hits
        gone = index.Delete(iter([pb.DeleteRequest(doc_ids=["news/1", "absent"]), pb.DeleteRequest(doc_ids=["other"])]))
        assert gone.removed == 2 and found(channel, "coffee") == []
    assert server.http("/documents", {"documents": [{"doc_id": "h", "text": "By another door."}]}).json["stored"] == 1
    assert server.http("/documents/h").json["text"] == "By another door."
    assert server.http("/documents/delete", {"doc_ids": ["h"]}).json == {"removed": 1}
    text = server.http("/metrics").body.decode()
    assert 'decant_documents_total{result="stored",store="notes"}' in text and "whales" not in text


def test_vectors_of_documents_are_those_of_the_encoder(
    run_server: Callable[..., Any], tmp_path: Path, encoder: Any
) -> None:
    stores = [{"name": "notes", "path": str(tmp_path / "notes"), "writable": True}]
    server = run_server(stores=stores)
    text = "The committee met on Tuesday."
    with server.channel() as channel:
        stubs.IndexerStub(channel).Upsert(documents({"a": text}))
        [hit] = stubs.SearcherStub(channel).Search(pb.SearchRequest(query="rivers", modes=[pb.SEARCH_MODE_DENSE])).hits
    expected = float(encoder.encode(text).dense[0] @ encoder.encode("rivers", kind="query").dense[0])
    assert abs(hit.score - expected) < 1e-5


@pytest.mark.parametrize(
    ("requests", "code"),
    [
        ([], grpc.StatusCode.INVALID_ARGUMENT),
        ([pb.IndexRequest(store="absent")], grpc.StatusCode.NOT_FOUND),
        ([pb.IndexRequest(document=pb.Document(text="no id"))], grpc.StatusCode.INVALID_ARGUMENT),
        ([pb.IndexRequest(document=pb.Document(doc_id="a", text="twice"))] * 2, grpc.StatusCode.INVALID_ARGUMENT),
        ([pb.IndexRequest(document=pb.Document(doc_id="a", text=" "))], grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_documents_that_cannot_be_stored(
    run_server: Callable[..., Any], tmp_path: Path, requests: list[pb.IndexRequest], code: grpc.StatusCode
) -> None:
    server = run_server(stores=[{"name": "notes", "path": str(tmp_path / "notes"), "writable": True}])
    with server.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        stubs.IndexerStub(channel).Upsert(iter(requests))
    assert refused.value.code() is code


def test_a_store_for_reading_is_not_written(running: Any) -> None:
    with running.channel() as channel, pytest.raises(grpc.RpcError) as refused:
        stubs.IndexerStub(channel).Upsert(documents({"a": "text"}))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert running.http("/documents", {"documents": [{"doc_id": "a", "text": "b"}]}).status == 403


@pytest.fixture
def shared(run_server: Callable[..., Any], tmp_path: Path) -> Any:
    """Two tenants: a folder each in `own`, and `ours`, which only a may read."""
    return run_server(
        stores=[
            {"name": "own", "path": str(tmp_path / "{tenant}"), "writable": True},
            {"name": "ours", "path": str(tmp_path / "ours"), "writable": True, "tenants": ["a"]},
        ],
        api_keys=[
            {"sha256": hash_key("alpha"), "tenant": "a", "scopes": EVERYTHING},
            {"sha256": hash_key("beta"), "tenant": "b", "scopes": EVERYTHING},
            {"sha256": hash_key("reader"), "tenant": "a"},
        ],
    )


def test_no_tenant_ever_reads_anothers_documents(shared: Any) -> None:
    with shared.channel() as channel:
        index, search, answer = stubs.IndexerStub(channel), stubs.SearcherStub(channel), stubs.AnswererStub(channel)
        index.Upsert(documents({"secret": "The code of the vault is 4711."}), metadata=A)
        index.Upsert(documents({"mine": "The code of the bicycle is 1234."}), metadata=B)
        index.Upsert(documents({"joint": "The code of the door is 9999."}, store="ours"), metadata=A)
        assert found(channel, "vault", A) == ["secret"] and found(channel, "vault code", B) == ["mine"]

        def refused(call: Callable[[], Any]) -> grpc.StatusCode:
            with pytest.raises(grpc.RpcError) as error:
                call()
            return error.value.code()

        assert refused(lambda: search.Get(pb.GetRequest(doc_id="secret"), metadata=B)) is grpc.StatusCode.NOT_FOUND
        theirs = pb.SearchRequest(store="ours", query="code")
        # What a tenant may not use is for it the same as what does not exist.
        absent = pb.SearchRequest(store="absent", query="code")
        messages: list[str] = []
        for request in (theirs, absent):
            with pytest.raises(grpc.RpcError) as error:
                search.Search(request, metadata=B)
            assert error.value.code() is grpc.StatusCode.NOT_FOUND
            messages.append(error.value.details().replace(request.store, "X"))
        assert messages[0] == messages[1]
        assert (
            refused(lambda: index.Upsert(documents({"x": "y"}, store="ours"), metadata=B)) is grpc.StatusCode.NOT_FOUND
        )
        reader = (("authorization", "Bearer reader"),)
        denied = refused(lambda: index.Upsert(documents({"x": "y"}), metadata=reader))
        assert denied is grpc.StatusCode.PERMISSION_DENIED
        for piece in answer.Ask(pb.AskRequest(question="What is the code of the vault?"), metadata=B):
            assert "4711" not in str(piece)
    beta = {"authorization": "Bearer beta"}
    assert shared.http("/documents/secret", headers=beta).status == 404
    assert shared.http("/stores", headers=beta).json == {"stores": ["own"]}
    for path, body in (("/search", {"query": "vault 4711"}), ("/ask", {"question": "What is the code of the vault?"})):
        assert b"4711." not in shared.http(path, body, beta).body


def test_tenants_at_once_get_their_own(shared: Any) -> None:
    wrong: list[str] = []
    with shared.channel() as channel:
        for metadata, name in ((A, "alpha"), (B, "beta")):
            stubs.IndexerStub(channel).Upsert(documents({name: f"The word here is {name}."}), metadata=metadata)

        def ask(metadata: Any, name: str) -> None:
            for _ in range(20):
                request = pb.SearchRequest(query="which word is here", modes=[pb.SEARCH_MODE_HYBRID])
                hits = stubs.SearcherStub(channel).Search(request, metadata=metadata).hits
                wrong.extend(hit.doc_id for hit in hits if hit.doc_id != name)

        threads = [threading.Thread(target=ask, args=pair) for pair in ((A, "alpha"), (B, "beta")) * 3]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == []
