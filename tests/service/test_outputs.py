from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from scipy.sparse import csr_array

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.spec import RouterSpec
from decant.index import Document, Searcher, Store
from decant.index.batches import index_documents
from decant.service.client import Client
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs
from decant.service.proto.tei.v1 import tei_pb2 as tei
from decant.service.proto.tei.v1 import tei_pb2_grpc as tei_stubs

TEXTS = ["Rivers carry water.", "The committee met on Tuesday to discuss the budget.", "a"]


def as_rows(vectors: list[tuple[Any, Any]], terms: int) -> np.ndarray:
    rows = np.zeros((len(vectors), terms), np.float32)
    for row, (indices, weights) in zip(rows, vectors, strict=True):
        assert list(indices) == sorted(set(indices)) and all(weights)
        row[list(indices)] = list(weights)
    return rows


def test_sparse_vectors_are_those_of_the_encoder_at_every_door(
    run_server: Callable[..., Any], sparse_encoder: Encoder
) -> None:
    expected = sparse_encoder.encode(TEXTS, outputs=("dense", "sparse"))
    assert isinstance(expected.sparse, csr_array)
    wanted = expected.sparse.toarray()
    width = wanted.shape[1]
    server = run_server(of=sparse_encoder)
    with server.channel() as channel:
        encode = stubs.EncoderStub(channel)
        alone = encode.EmbedSparse(pb.EmbedRequest(texts=TEXTS)).embeddings
        assert not any(item.dense for item in alone)
        both = encode.Embed(pb.EmbedRequest(texts=TEXTS, outputs=[pb.OUTPUT_DENSE, pb.OUTPUT_SPARSE])).embeddings
        dense = np.stack([np.frombuffer(item.dense, "<f4") for item in both])
        assert np.abs(dense - expected.dense).max() <= 1e-6
        request = pb.EmbedStreamRequest(id=7, request=pb.EmbedRequest(texts=TEXTS, outputs=[pb.OUTPUT_SPARSE]))
        [streamed] = encode.EmbedStream(iter([request]))
        for items in (alone, both, streamed.response.embeddings):
            got = as_rows([(item.sparse.terms, item.sparse.weights) for item in items], width)
            assert np.abs(got - wanted).max() <= 1e-6
        embed = tei_stubs.EmbedStub(channel)
        one = [embed.EmbedSparse(tei.EmbedSparseRequest(inputs=text)) for text in TEXTS]
        many = list(embed.EmbedSparseStream(tei.EmbedSparseRequest(inputs=text) for text in TEXTS))
        for answers in (one, many):
            pairs = [[(v.index, v.value) for v in answer.sparse_embeddings] for answer in answers]
            got = as_rows([tuple(zip(*row, strict=True)) for row in pairs], width)
            assert np.abs(got - wanted).max() <= 1e-6
    answer = server.http("/embed_sparse", {"inputs": TEXTS})
    pairs = [[(v["index"], v["value"]) for v in row] for row in answer.json]
    assert np.abs(as_rows([tuple(zip(*row, strict=True)) for row in pairs], width) - wanted).max() <= 1e-6
    assert answer.headers["x-compute-tokens"] == str(int(expected.tokens.sum()))


def test_a_batch_of_several_outputs_is_still_what_each_text_gets_alone(
    run_server: Callable[..., Any], sparse_encoder: Encoder
) -> None:
    server = run_server(of=sparse_encoder)
    with server.channel() as channel:
        encode = stubs.EncoderStub(channel)
        requests = [pb.EmbedRequest(texts=[f"{text} {i}"]) for i in range(8) for text in TEXTS]
        calls = [(encode.EmbedSparse if i % 2 else encode.Embed).future(request) for i, request in enumerate(requests)]
        for i, (call, request) in enumerate(zip(calls, requests, strict=True)):
            [item] = call.result().embeddings
            assert bool(item.dense) != bool(i % 2)
            if not i % 2:
                alone = sparse_encoder.encode(request.texts[0]).dense
                assert np.abs(np.frombuffer(item.dense, "<f4") - alone[0]).max() <= 1e-6


def test_every_token_has_a_vector(running: Any, encoder: Encoder) -> None:
    with running.channel() as channel:
        answer = tei_stubs.EmbedStub(channel).EmbedAll(tei.EmbedAllRequest(inputs=TEXTS[0]))
    states = np.array([row.embeddings for row in answer.token_embeddings], np.float32)
    assert states.shape == (answer.metadata.compute_tokens, 32)
    # This encoder pools by the mean: so the vectors of tokens and of texts agree.
    mean = states.mean(axis=0)
    assert np.abs(mean / np.linalg.norm(mean) - encoder.encode(TEXTS[0]).dense[0]).max() <= 1e-6
    over_http = np.array(running.http("/embed_all", {"inputs": TEXTS[0]}).json[0], np.float32)
    assert np.abs(over_http - states).max() <= 1e-6


def test_what_the_model_has_no_head_for_is_refused(running: Any) -> None:
    with running.channel() as channel:
        encode = stubs.EncoderStub(channel)
        for output in (pb.OUTPUT_SPARSE, pb.OUTPUT_ROUTER):
            with pytest.raises(grpc.RpcError) as refused:
                encode.Embed(pb.EmbedRequest(texts=["a"], outputs=[output]))
            assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        unknown = pb.EmbedRequest.FromString(pb.EmbedRequest(texts=["a"]).SerializeToString() + b"\x4a\x01\x63")
        with pytest.raises(grpc.RpcError) as refused:
            encode.Embed(unknown)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_similarity_is_the_cosine(running: Any, encoder: Encoder) -> None:
    body = {"inputs": {"source_sentence": TEXTS[0], "sentences": TEXTS}}
    dense = encoder.encode(TEXTS).dense
    assert np.abs(np.array(running.http("/similarity", body).json) - dense @ dense[0]).max() <= 1e-5
    assert running.http("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}).status == 422


@pytest.mark.parametrize("mode", ["sparse", "dense+sparse", "sparse+lexical", "hybrid"])
def test_every_mode_finds_what_the_searcher_finds(
    run_server: Callable[..., Any], sparse_encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    from decant.service.queued_encoder import QueuedEncoder

    with Store.open(tmp_path / "store", encoder=sparse_encoder, create=True) as store:
        index_documents(store, sparse_encoder, [Document(str(i), text) for i, text in enumerate(TEXTS)])
        wanted = Searcher(store, sparse_encoder).search("the budget", mode=mode, k=3)
    server = run_server(of=sparse_encoder, store=tmp_path / "store")
    # The question waits in the queue once, on the call's behalf, whatever the mode needs of it.
    monkeypatch.setattr(QueuedEncoder, "encode", lambda *_, **__: pytest.fail("encoded on the store's thread"))
    with Client(f"127.0.0.1:{server.server.grpc_port}") as client:
        found = client.search("the budget", mode=mode, k=3)
    assert wanted and [hit.chunk for hit in found] == [hit.chunk for hit in wanted]
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in wanted], abs=1e-6)
    assert [dict(hit.ranks) for hit in found] == [dict(hit.ranks) for hit in wanted]


def test_the_weight_of_routers_is_the_callers_at_every_door(
    run_server: Callable[..., Any], tiny_experts: Path, tmp_path: Path
) -> None:
    spec = EncoderSpec(pooling="last", max_tokens=64, router=RouterSpec())
    encoder = Encoder.load(tiny_experts, device="cpu", dtype="float32", spec=spec)
    with Store.open(tmp_path / "store", encoder=encoder, create=True) as store:
        index_documents(store, encoder, [Document(str(i), text) for i, text in enumerate(TEXTS)])
        searcher = Searcher(store, encoder)
        wanted = {w: [h.score for h in searcher.search("budget", mode="moee", router_weight=w)] for w in (0.0, 0.25, 1)}
    assert len({tuple(scores) for scores in wanted.values()}) == 3
    server = run_server(of=encoder, store=tmp_path / "store")
    with Client(f"127.0.0.1:{server.server.grpc_port}") as client, server.channel() as channel:
        for weight, scores in wanted.items():
            found = client.search("budget", mode="moee", router_weight=weight)
            assert [hit.score for hit in found] == pytest.approx(scores, abs=1e-6)
            body = {"query": "budget", "mode": "moee", "router_weight": weight}
            hits = server.http("/search", body).json["hits"]
            assert [hit["score"] for hit in hits] == pytest.approx(scores, abs=1e-6)
        ask = pb.SearchRequest(query="budget", modes=[pb.SEARCH_MODE_MOEE])
        assert [hit.score for hit in stubs.SearcherStub(channel).Search(ask).hits] == pytest.approx(wanted[1], abs=1e-6)
        ask.router_weight = -1
        with pytest.raises(grpc.RpcError) as refused:
            stubs.SearcherStub(channel).Search(ask)
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT and "router_weight" in refused.value.details()
    for weight in (-1, "NaN"):
        assert server.http("/search", {"query": "a", "router_weight": weight}).status == 400
