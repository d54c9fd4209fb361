from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
import pytest
from google.rpc.error_details_pb2 import RetryInfo
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_status import rpc_status

from decant.embedder import Encoder
from decant.service.keys import hash_key
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs
from decant.service.proto.tei.v1 import tei_pb2 as tei
from decant.service.proto.tei.v1 import tei_pb2_grpc as tei_stubs
from decant.service.vectors import VectorFormat, unpack

TEXTS = ["Rivers carry water.", "The committee met on Tuesday to discuss the budget.", "a", "def add(a, b)"]
LONG = "water " * 200


@pytest.fixture
def channel(running: Any) -> Iterator[grpc.Channel]:
    with running.channel() as channel:
        yield channel


@pytest.fixture
def encode(channel: grpc.Channel) -> stubs.EncoderStub:
    return stubs.EncoderStub(channel)


def dense(response: pb.EmbedResponse) -> np.ndarray:
    return np.stack([np.frombuffer(item.dense, "<f4") for item in response.embeddings])


def refusal(call: Callable[[], Any]) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as refused:
        call()
    return refused.value


def test_vectors_are_those_of_the_encoder(encode: stubs.EncoderStub, encoder: Encoder) -> None:
    response = encode.Embed(pb.EmbedRequest(texts=TEXTS, kind="query"))
    expected = encoder.encode(TEXTS, kind="query")
    assert np.abs(dense(response) - expected.dense).max() <= 1e-6
    assert [item.tokens for item in response.embeddings] == expected.tokens.tolist()
    assert (response.model, response.dimensions, response.fingerprint) == ("tiny", 32, encoder.fingerprint)


def test_vectors_under_concurrent_load_are_those_computed_alone(encode: stubs.EncoderStub, encoder: Encoder) -> None:
    texts = [f"{TEXTS[i % 4]} number {i} " * (1 + i % 5) for i in range(96)]
    alone = np.concatenate([encoder.encode([text]).dense for text in texts])
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda text: encode.Embed(pb.EmbedRequest(texts=[text])), texts))
    assert np.abs(np.concatenate([dense(answer) for answer in answers]) - alone).max() <= 1e-6


@pytest.mark.parametrize(
    ("number", "form", "bound"),
    [
        (pb.VECTOR_FORMAT_FLOAT16, VectorFormat.FLOAT16, 1e-3),
        (pb.VECTOR_FORMAT_INT8, VectorFormat.INT8, 5e-3),
        (pb.VECTOR_FORMAT_FLOAT32, VectorFormat.FLOAT32, 1e-6),
    ],
)
def test_formats_hold_the_vector(
    encode: stubs.EncoderStub, encoder: Encoder, number: pb.VectorFormat, form: VectorFormat, bound: float
) -> None:
    response = encode.Embed(pb.EmbedRequest(texts=TEXTS, format=number))
    got = np.stack([unpack(item.dense, form, 32, item.scale) for item in response.embeddings])
    assert np.abs(got - encoder.encode(TEXTS).dense).max() <= bound


def test_binary_vectors_are_signs(encode: stubs.EncoderStub, encoder: Encoder) -> None:
    response = encode.Embed(pb.EmbedRequest(texts=TEXTS, format=pb.VECTOR_FORMAT_UBINARY))
    assert {len(item.dense) for item in response.embeddings} == {4}
    got = np.stack([unpack(item.dense, VectorFormat.UBINARY, 32) for item in response.embeddings])
    assert ((got > 0) == (encoder.encode(TEXTS).dense > 0)).all()


def test_trained_widths_are_served_and_others_refused(encode: stubs.EncoderStub, encoder: Encoder) -> None:
    response = encode.Embed(pb.EmbedRequest(texts=TEXTS, dimensions=16))
    assert np.abs(dense(response) - encoder.encode(TEXTS, dimensions=16).dense).max() <= 1e-6
    error = refusal(lambda: encode.Embed(pb.EmbedRequest(texts=TEXTS, dimensions=5)))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and "16" in error.details()


def test_truncation_is_told_per_text_or_an_error_of_that_text(encode: stubs.EncoderStub) -> None:
    cut = encode.Embed(pb.EmbedRequest(texts=["short", LONG]))
    assert [(item.truncated, item.tokens < 64) for item in cut.embeddings] == [(False, True), (True, False)]
    strict = encode.Embed(pb.EmbedRequest(texts=["short", LONG, ""], truncate=pb.TRUNCATE_ERROR))
    fine, long, empty = strict.embeddings
    assert fine.dense and not fine.HasField("error")
    assert not long.dense and long.error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "text 1" in long.error.message and "text 2 is empty" in empty.error.message


@pytest.mark.parametrize(
    ("request_", "code", "word"),
    [
        (pb.EmbedRequest(), grpc.StatusCode.INVALID_ARGUMENT, "nothing to encode"),
        (pb.EmbedRequest(texts=["a"] * 65), grpc.StatusCode.INVALID_ARGUMENT, "at most 64"),
        (pb.EmbedRequest(texts=["a"], kind="nonsense"), grpc.StatusCode.INVALID_ARGUMENT, "nonsense"),
        (pb.EmbedRequest(texts=["a"], instruction="do"), grpc.StatusCode.INVALID_ARGUMENT, "instruction"),
        (pb.EmbedRequest(texts=["a"], model="other"), grpc.StatusCode.NOT_FOUND, "tiny"),
    ],
    ids=lambda value: None,
)
def test_what_cannot_be_honoured_is_refused(
    encode: stubs.EncoderStub, request_: pb.EmbedRequest, code: grpc.StatusCode, word: str
) -> None:
    error = refusal(lambda: encode.Embed(request_))
    assert error.code() is code and word in error.details()


def test_an_enum_value_of_a_newer_client_is_refused(encode: stubs.EncoderStub) -> None:
    request = pb.EmbedRequest.FromString(pb.EmbedRequest(texts=["a"]).SerializeToString() + b"\x30\x63")
    assert refusal(lambda: encode.Embed(request)).code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_stream_answers_in_order_and_a_bad_request_fails_alone(encode: stubs.EncoderStub, encoder: Encoder) -> None:
    def requests() -> Iterator[pb.EmbedStreamRequest]:
        for i in range(40):
            texts = [] if i == 7 else [f"text {i} " * (40 - i), "second"]
            yield pb.EmbedStreamRequest(id=100 + i, request=pb.EmbedRequest(texts=texts))

    answers = list(encode.EmbedStream(requests()))
    assert [answer.id for answer in answers] == list(range(100, 140))
    assert answers[7].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    expected = encoder.encode(["text 9 " * 31]).dense
    assert np.abs(dense(answers[9].response)[:1] - expected).max() <= 1e-6


def test_a_stream_is_not_read_ahead_of_its_reader(encode: stubs.EncoderStub) -> None:
    sent = 0
    enough = threading.Event()

    def requests() -> Iterator[pb.EmbedStreamRequest]:
        nonlocal sent
        for i in range(2000):
            sent = i
            yield pb.EmbedStreamRequest(id=i, request=pb.EmbedRequest(texts=["x" * 2000] * 16))
        enough.set()

    stream = encode.EmbedStream(requests())
    assert [next(stream).id for _ in range(3)] == [0, 1, 2]
    # 2000 requests of 32 kB would be 64 MB; HTTP/2's windows hold a few.
    assert not enough.is_set() and sent < 1000
    stream.cancel()


def test_a_compressed_request_is_read(encode: stubs.EncoderStub) -> None:
    response = encode.Embed(pb.EmbedRequest(texts=[LONG]), compression=grpc.Compression.Gzip)
    assert response.embeddings[0].truncated


def test_tokens_carry_the_place_of_their_characters(encode: stubs.EncoderStub, encoder: Encoder) -> None:
    text = TEXTS[1]
    [tokens] = encode.Tokenize(pb.TokenizeRequest(texts=[text])).texts
    assert list(tokens.ids) == encoder.tokenizer.encode(text).ids
    assert "".join(text[a:b] for a, b in zip(tokens.starts, tokens.ends, strict=True)) == text


def test_search_finds_the_passage_and_its_place(channel: grpc.Channel) -> None:
    search = stubs.SearcherStub(channel)
    response = search.Search(pb.SearchRequest(query="committee budget", modes=[pb.SEARCH_MODE_LEXICAL], k=1))
    [hit] = response.hits
    assert (hit.doc_id, hit.start_char, hit.end_char) == ("budget.txt", 0, len(hit.text))
    dense = search.Search(pb.SearchRequest(query="rivers", modes=[pb.SEARCH_MODE_DENSE], without_text=True))
    assert len(dense.hits) == 3 and not any(hit.text for hit in dense.hits)
    hybrid = search.Search(pb.SearchRequest(query="def add"))
    assert {"dense", "lexical"} >= set(hybrid.hits[0].ranks)
    error = refusal(lambda: search.Search(pb.SearchRequest(query=" ")))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    error = refusal(lambda: search.Search(pb.SearchRequest(query="a", filter="nonsense")))
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and "filter" in error.details()


def test_models_say_what_can_be_asked_of_them(channel: grpc.Channel) -> None:
    response = stubs.ModelsStub(channel).List(pb.ListModelsRequest())
    [model] = response.models
    assert (model.name, list(model.offered_dimensions), model.max_tokens) == ("tiny", [32, 16], 64)
    assert list(model.kinds) == ["document", "query"] and response.max_texts == 64


def test_health_is_per_service(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    serving, absent = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    names = {"": serving, "decant.v1.Encoder": serving, "decant.v1.Searcher": serving, "tei.v1.Embed": serving}
    names |= {"decant.v1.Answerer": serving, "decant.v1.Reranker": serving, "tei.v1.Rerank": serving}
    names |= {"tei.v1.Predict": absent, "decant.v1.Indexer": absent}
    got = {name: health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in names}
    assert got == names
    error = refusal(lambda: health.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert error.code() is grpc.StatusCode.NOT_FOUND


def test_health_asks_the_encoder(run_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    broken = run_server()
    engine = broken.server.model.engine

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(type(engine.encoder), "represent", fail)
    broken.server.model.queue.last_success = -float("inf")
    with broken.channel() as channel:
        status = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest()).status
        assert status == health_pb2.HealthCheckResponse.NOT_SERVING
        answer = stubs.EncoderStub(channel).Embed(pb.EmbedRequest(texts=["a"]))
        assert answer.embeddings[0].error.code == grpc.StatusCode.INTERNAL.value[0]
        error = refusal(lambda: tei_stubs.EmbedStub(channel).Embed(tei.EmbedRequest(inputs="a")))
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert broken.http("/health").status == 503


def test_reflection_lists_the_services(channel: grpc.Channel) -> None:
    names = set(ProtoReflectionDescriptorDatabase(channel).get_services())
    assert {"decant.v1.Encoder", "decant.v1.Searcher", "tei.v1.Embed", "grpc.health.v1.Health"} <= names


def test_a_deadline_ends_the_call_and_the_work(running: Any, encode: stubs.EncoderStub) -> None:
    error = refusal(lambda: encode.Embed(pb.EmbedRequest(texts=[LONG] * 64), timeout=0.001))
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert encode.Embed(pb.EmbedRequest(texts=["after"])).embeddings[0].dense


def test_a_full_queue_says_when_to_come_back(run_server: Callable[..., Any]) -> None:
    small = run_server(queued_tokens=100, queued_requests=1)
    with small.channel() as channel:
        encode = stubs.EncoderStub(channel)
        error = refusal(lambda: encode.Embed(pb.EmbedRequest(texts=[LONG] * 4)))
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT and "fewer texts" in error.details()
        calls = [encode.Embed.future(pb.EmbedRequest(texts=[LONG])) for _ in range(64)]
        refused = [call.exception() for call in calls if call.exception() is not None]
        assert refused and len(refused) < 64
        assert {error.code() for error in refused} == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        status = rpc_status.from_call(refused[0])
        assert status is not None
        info = RetryInfo()
        assert status.details[0].Unpack(info)
        assert info.retry_delay.ToMilliseconds() >= 50
        assert int(dict(refused[0].trailing_metadata())["retry-after-ms"]) >= 50


def test_keys_are_checked_and_bring_their_tenant(run_server: Callable[..., Any]) -> None:
    keys = [
        {"sha256": hash_key("alpha"), "tenant": "a", "scopes": ["embed"]},
        {"sha256": hash_key("beta"), "tenant": "b"},
    ]
    guarded = run_server(api_keys=keys)
    with guarded.channel() as channel:
        encode, search = stubs.EncoderStub(channel), stubs.SearcherStub(channel)
        request, question = pb.EmbedRequest(texts=["a"]), pb.SearchRequest(query="a")
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "alpha"),)):
            error = refusal(lambda metadata=metadata: encode.Embed(request, metadata=metadata))
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        alpha, beta = ((("authorization", f"Bearer {key}"),) for key in ("alpha", "beta"))
        assert encode.Embed(request, metadata=alpha).embeddings[0].dense
        denied = refusal(lambda: search.Search(question, metadata=alpha))
        assert denied.code() is grpc.StatusCode.PERMISSION_DENIED
        absent = refusal(lambda: search.Search(question, metadata=beta))
        assert absent.code() is grpc.StatusCode.FAILED_PRECONDITION and "--store" in absent.details()
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        assert guarded.http("/v1/embeddings", {"input": "a"}).status == 401
        assert guarded.http("/embed", {"inputs": "a"}).body == b""
        assert guarded.http("/embed", {"inputs": "a"}, {"authorization": "Bearer beta"}).status == 200


def test_request_ids_come_back(encode: stubs.EncoderStub) -> None:
    _, call = encode.Embed.with_call(pb.EmbedRequest(texts=["a"]), metadata=(("x-request-id", "mine"),))
    assert dict(call.trailing_metadata())["x-request-id"] == "mine"
    error = refusal(lambda: encode.Embed(pb.EmbedRequest()))
    assert dict(error.trailing_metadata())["x-request-id"].startswith("req-")


def test_tei_embeds_with_its_own_defaults(channel: grpc.Channel, encoder: Encoder) -> None:
    embed = tei_stubs.EmbedStub(channel)
    response, call = embed.Embed.with_call(tei.EmbedRequest(inputs=TEXTS[0]))
    assert np.abs(np.array(response.embeddings, np.float32) - encoder.encode(TEXTS[0]).dense[0]).max() <= 1e-6
    assert response.metadata.compute_chars == len(TEXTS[0]) and response.metadata.total_time_ns > 0
    assert dict(call.initial_metadata())["x-compute-tokens"] == str(response.metadata.compute_tokens)
    long = refusal(lambda: embed.Embed(tei.EmbedRequest(inputs=LONG)))
    assert long.code() is grpc.StatusCode.INVALID_ARGUMENT
    _, call = embed.Embed.with_call(tei.EmbedRequest(inputs=LONG, truncate=True))
    assert dict(call.trailing_metadata())["x-decant-truncated"] == "true"
    raw = embed.Embed(tei.EmbedRequest(inputs=TEXTS[0], normalize=False, prompt_name="query")).embeddings
    unit = encoder.encode(TEXTS[0], kind="query").dense[0]
    assert abs(np.linalg.norm(raw) - 1) > 1e-3
    assert np.abs(np.array(raw) / np.linalg.norm(raw) - unit).max() <= 1e-6
    zero = refusal(lambda: embed.Embed(tei.EmbedRequest(inputs="a", dimensions=0)))
    assert zero.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_tei_streams_in_order(channel: grpc.Channel, encoder: Encoder) -> None:
    texts = [f"text {i} " * (30 - i) for i in range(30)]
    answers = list(tei_stubs.EmbedStub(channel).EmbedStream(tei.EmbedRequest(inputs=t, truncate=True) for t in texts))
    got = np.array([answer.embeddings for answer in answers], np.float32)
    assert np.abs(got - encoder.encode(texts).dense).max() <= 1e-6


def test_tei_refuses_what_the_model_does_not_serve(channel: grpc.Channel) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: tei_stubs.EmbedStub(channel).EmbedSparse(tei.EmbedSparseRequest(inputs="a")),
        lambda: tei_stubs.PredictStub(channel).Predict(tei.PredictRequest(inputs="a")),
        lambda: list(tei_stubs.EmbedStub(channel).EmbedSparseStream(iter([tei.EmbedSparseRequest(inputs="a")]))),
    ]
    for call in calls:
        assert refusal(call).code() is grpc.StatusCode.FAILED_PRECONDITION


def test_tei_info_and_tokens(channel: grpc.Channel) -> None:
    info = tei_stubs.InfoStub(channel).Info(tei.InfoRequest())
    assert (info.model_id, info.max_input_length, info.model_dtype) == ("tiny", 64, "float32")
    stub = tei_stubs.TokenizeStub(channel)
    tokens = stub.Tokenize(tei.EncodeRequest(inputs=TEXTS[0], add_special_tokens=True)).tokens
    assert "".join(TEXTS[0][token.start : token.stop] for token in tokens if not token.special) == TEXTS[0]
    ids = [token.id for token in tokens]
    assert stub.Decode(tei.DecodeRequest(ids=ids, skip_special_tokens=True)).text == TEXTS[0]
    assert refusal(lambda: stub.Decode(tei.DecodeRequest(ids=[99999]))).code() is grpc.StatusCode.INVALID_ARGUMENT
