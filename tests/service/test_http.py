from __future__ import annotations

import base64
import socket
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decant.embedder import Encoder

TEXTS = ["Rivers carry water.", "The committee met on Tuesday to discuss the budget.", "a"]
LONG = "water " * 200


def vectors(body: Any) -> np.ndarray:
    return np.array([row["embedding"] for row in body["data"]], np.float32)


def test_openai_embeddings_as_numbers(running: Any, encoder: Encoder) -> None:
    answer = running.http("/v1/embeddings", {"input": TEXTS, "model": "tiny"})
    expected = encoder.encode(TEXTS)
    assert answer.status == 200
    body = answer.json
    assert np.abs(vectors(body) - expected.dense).max() <= 1e-6
    assert (body["object"], body["model"]) == ("list", "tiny")
    assert [(row["object"], row["index"]) for row in body["data"]] == [("embedding", i) for i in range(3)]
    tokens = int(expected.tokens.sum())
    assert body["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}


def test_openai_numbers_are_float32_to_the_last_bit(running: Any) -> None:
    numbers = vectors(running.http("/v1/embeddings", {"input": TEXTS}).json)
    packed = running.http("/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"}).json
    exact = np.stack([np.frombuffer(base64.b64decode(row["embedding"]), "<f4") for row in packed["data"]])
    assert numbers.tobytes() == exact.tobytes()


def test_openai_dimensions_kind_and_truncation(running: Any, encoder: Encoder) -> None:
    small = running.http("/v1/embeddings", {"input": TEXTS[0], "dimensions": 16, "kind": "query"}).json
    expected = encoder.encode(TEXTS[0], kind="query", dimensions=16).dense
    assert np.abs(vectors(small) - expected).max() <= 1e-6
    cut = running.http("/v1/embeddings", {"input": ["short", LONG]}).json["data"]
    assert "truncated" not in cut[0] and cut[1]["truncated"] is True
    refused = running.http("/v1/embeddings", {"input": ["short", LONG], "truncate": "error"})
    assert refused.status == 400 and "input[1]" in refused.json["error"]["message"]


def test_openai_token_arrays_mean_their_text(running: Any, encoder: Encoder) -> None:
    ids = [encoder.tokenizer.encode(text).ids for text in TEXTS]
    together = vectors(running.http("/v1/embeddings", {"input": ids}).json)
    alone = vectors(running.http("/v1/embeddings", {"input": ids[1]}).json)
    expected = encoder.encode(TEXTS).dense
    assert np.abs(together - expected).max() <= 1e-6
    assert np.abs(alone[0] - expected[1]).max() <= 1e-6
    foreign = running.http("/v1/embeddings", {"input": [[100257]]})
    assert foreign.status == 400 and "100257" in foreign.json["error"]["message"]


def test_many_texts_are_answered_in_order(running: Any, encoder: Encoder) -> None:
    texts = [f"text {i} " * (1 + i % 7) for i in range(60)]
    assert (
        np.abs(vectors(running.http("/v1/embeddings", {"input": texts}).json) - encoder.encode(texts).dense).max()
        <= 1e-6
    )


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        ({"input": []}, 400, "at least one"),
        ({"input": ""}, 400, "empty"),
        ({"input": ["a", ""]}, 400, "input[1]"),
        ({"input": ["a"] * 65}, 400, "at most 64"),
        ({"input": "a", "dimensions": 7}, 400, "not trained for 7"),
        ({"input": "a", "model": "gpt"}, 404, "tiny"),
        ({"input": 5}, 400, "input"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "nonsense": 1}, 400, "nonsense"),
        ({"model": "tiny"}, 400, "input"),
        (b"{not json", 400, "the body is no JSON: Expecting property name enclosed in double quotes at character 1"),
        (b'{"input": "\\ud800"}', 400, ""),
    ],
    ids=lambda value: str(value)[:40],
)
def test_openai_errors_have_the_shape_its_clients_parse(running: Any, body: Any, status: int, word: str) -> None:
    answer = running.http("/v1/embeddings", body)
    assert answer.status == status
    error = answer.json["error"]
    assert set(error) == {"message", "type", "param", "code"} and word in error["message"]
    assert error["type"] == "invalid_request_error"
    assert answer.headers["x-should-retry"] == "false"


def test_models_and_unknown_routes(running: Any) -> None:
    [model] = running.http("/v1/models").json["data"]
    assert (model["id"], model["object"], model["dimensions"]) == ("tiny", "model", [32, 16])
    lost = running.http("/v1/nothing", {})
    assert lost.status == 404 and "/v1/nothing" in lost.json["error"]["message"]


def test_what_is_no_call_of_a_route_is_told_how_it_is_called(running: Any) -> None:
    form = {"content-type": "application/x-www-form-urlencoded"}  # curl's, where nothing is said
    for path, status in (("/v1/embeddings", 400), ("/embed", 422)):
        answer = running.http(path, {"input": "a"}, form)
        assert answer.status == status and "content-type: application/json" in answer.body.decode()
    wrong = running.http("/v1/embeddings")
    assert wrong.status == 405 and wrong.headers["allow"] == "POST"
    assert wrong.json["error"]["message"] == "GET is not taken at /v1/embeddings: use POST"


def test_request_ids_come_back(running: Any) -> None:
    assert running.http("/v1/models", headers={"x-request-id": "mine"}).headers["x-request-id"] == "mine"
    assert running.http("/v1/models").headers["x-request-id"].startswith("req-")


def test_tei_embed_is_a_list_of_lists_and_cuts_by_default(running: Any, encoder: Encoder) -> None:
    one = running.http("/embed", {"inputs": TEXTS[0]})
    assert np.abs(np.array(one.json, np.float32) - encoder.encode(TEXTS[:1]).dense).max() <= 1e-6
    assert one.headers["x-compute-characters"] == str(len(TEXTS[0]))
    many = running.http("/embed", {"inputs": [*TEXTS, LONG]})
    assert len(many.json) == 4 and many.headers["x-decant-truncated"] == "3"
    root = running.http("/", {"inputs": TEXTS})
    assert np.array(root.json).shape == (3, 32)
    strict = running.http("/embed", {"inputs": LONG, "truncate": False})
    assert strict.status == 422 and strict.json["error_type"] == "Validation"
    empty = running.http("/embed", {"inputs": ""})
    assert empty.status == 400 and empty.json["error_type"] == "Empty"
    sparse = running.http("/embed_sparse", {"inputs": "a"})
    assert sparse.status == 424 and sparse.json["error_type"] == "Backend"


def test_tei_info_tokenize_and_decode(running: Any) -> None:
    info = running.http("/info").json
    assert (info["model_id"], info["max_input_length"], info["auto_truncate"]) == ("tiny", 64, True)
    assert info["model_type"] == {"embedding": {"pooling": "mean"}}
    [tokens] = running.http("/tokenize", {"inputs": TEXTS[0]}).json
    assert "".join(TEXTS[0][t["start"] : t["stop"]] for t in tokens) == TEXTS[0]
    assert running.http("/decode", {"ids": [t["id"] for t in tokens]}).json == [TEXTS[0]]


def test_search_over_http_finds_what_it_finds_over_grpc(running: Any) -> None:
    answer = running.http("/search", {"query": "committee budget", "mode": "lexical", "k": 1}).json
    [hit] = answer["hits"]
    assert (hit["doc_id"], hit["start_char"], hit["end_char"]) == ("budget.txt", 0, len(hit["text"]))
    assert len(running.http("/search", {"query": "rivers", "mode": "dense"}).json["hits"]) == 3
    assert running.http("/search", {"query": ""}).status == 400
    assert running.http("/search", {"query": "a", "filter": "path ="}).status == 400
    assert running.http("/search", {"query": "a", "k": 0}).status == 400


def test_health_and_metrics(running: Any) -> None:
    assert running.http("/health").status == 200
    running.http("/v1/embeddings", {"input": LONG})
    text = running.http("/metrics").body.decode()
    sample = 'decant_requests_total{code="200",method="v1/embeddings",model="tiny",protocol="http"}'
    assert any(line.startswith(sample) for line in text.splitlines())
    for name in ("queue_tokens", "batch_tokens", "stage_seconds", "model_info", "dropped_total", "index_chunks"):
        assert f"decant_{name}" in text
    assert "water" not in text


def test_a_body_that_is_too_large_is_refused(run_server: Callable[..., Any]) -> None:
    small = run_server(max_message_bytes=2000)
    answer = small.http("/v1/embeddings", {"input": "a" * 3000})
    assert answer.status == 413 and "2,000" in answer.json["error"]["message"]
    chunked = b"".join(b"3e8\r\n" + b"a" * 1000 + b"\r\n" for _ in range(3)) + b"0\r\n\r\n"
    head = b"POST /embed HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", small.server.http_port), timeout=10) as raw:
        raw.sendall(head + chunked)
        assert b" 413 " in raw.recv(4096)


def test_overload_is_429_with_a_hint_and_a_late_call_504(run_server: Callable[..., Any]) -> None:
    full = run_server(queued_tokens=100)
    queue = full.server.model.queue
    full.do(on_loop(lambda: queue._lanes.reserve(90)))
    answer = full.http("/v1/embeddings", {"input": LONG})
    assert answer.status == 429 and answer.json["error"]["code"] == "overloaded"
    assert int(answer.headers["retry-after-ms"]) > 0 and int(answer.headers["retry-after"]) >= 1
    assert answer.headers["x-should-retry"] == "true"
    assert full.http("/embed", {"inputs": LONG}).json["error_type"] == "Overloaded"
    full.do(on_loop(lambda: queue._lanes.release(90)))
    late = full.http("/v1/embeddings", {"input": "a"}, {"x-decant-timeout-ms": "0"})
    assert late.status == 504 and late.headers["x-should-retry"] == "false"
    assert full.http("/v1/embeddings", {"input": "a"}).status == 200


def test_work_of_a_client_that_hung_up_is_dropped(run_server: Callable[..., Any], monkeypatch: Any) -> None:
    import threading

    server = run_server()
    gate, entered = threading.Event(), threading.Event()
    engine = server.server.model.engine
    encode = engine.encoder.represent

    def slow(*args: Any, **options: Any) -> Any:
        entered.set()
        assert gate.wait(10)
        return encode(*args, **options)

    monkeypatch.setattr(engine.encoder, "represent", slow)
    body = b'{"input": "hello"}'
    head = b"POST /v1/embeddings HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    first = socket.create_connection(("127.0.0.1", server.server.http_port), timeout=10)
    second = socket.create_connection(("127.0.0.1", server.server.http_port), timeout=10)
    first.sendall(head % len(body) + body)
    assert entered.wait(10)
    queue = server.server.model.queue
    second.sendall(head % len(body) + body)
    wait_until(lambda: queue.requests() == 1)
    second.close()
    wait_until(lambda: queue.requests() == 0)
    gate.set()
    assert b" 200 " in first.recv(4096)
    first.close()
    dropped = server.server.metrics.dropped.labels("cancelled")._value.get()
    assert dropped == 1


async def on_loop(work: Callable[[], Any]) -> Any:
    return work()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)
