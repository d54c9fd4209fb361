from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import pytest

from decant.embedder import Encoder
from decant.service.config import ConfigError, Settings
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs

DOCUMENTS = {
    "rivers.txt": "Rivers carry water from the mountains to the sea. The Rhine is 1,233 kilometres long.",
    "budget.txt": "The committee met on Tuesday and discussed the budget for three hours. The treasurer was ill.",
    "tea.txt": "Green tea is brewed at 80 degrees. Black tea takes boiling water.",
}
QUESTION = "How long did the committee discuss the budget?"
SENTENCE = "The committee met on Tuesday and discussed the budget for three hours."


@pytest.fixture(scope="module")
def library(mini: Encoder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from decant.index import Document, Store
    from decant.index.batches import index_documents

    folder = tmp_path_factory.mktemp("library") / "store"
    with Store.open(folder, encoder=mini, create=True) as store:
        index_documents(store, mini, [Document(name, text, path=name) for name, text in DOCUMENTS.items()])
    return folder


@pytest.fixture
def asked(run_server: Callable[..., Any], mini: Encoder, library: Path) -> Any:
    return run_server(of=mini, store=library)


def events(body: bytes) -> Iterator[tuple[str, Any]]:
    """Name and data of each server-sent event."""
    for block in body.decode().strip().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines())
        yield fields.get("event", ""), fields["data"]


def test_ask_streams_text_then_verified_citations(asked: Any) -> None:
    with asked.channel() as channel:
        *pieces, last = stubs.AnswererStub(channel).Ask(pb.AskRequest(question=QUESTION))
        assert "".join(piece.text for piece in pieces) == last.answer.text and last.answer.grounded
        citation = last.answer.citations[0]
        assert citation.text == SENTENCE and f"[{citation.number}]" in last.answer.text
        assert not last.answer.HasField("confidence")
        whole = stubs.SearcherStub(channel).Get(pb.GetRequest(doc_id=citation.doc_id)).text
        assert whole[citation.start_char : citation.end_char] == SENTENCE
        *_, none = stubs.AnswererStub(channel).Ask(pb.AskRequest(question="Who won the football cup in 1954?"))
        assert not none.answer.grounded and not none.answer.citations
        for request in (pb.AskRequest(question=" "), pb.AskRequest(question="a", history=[pb.Turn(role="x")])):
            with pytest.raises(grpc.RpcError) as refused:
                list(stubs.AnswererStub(channel).Ask(request))
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_an_answers_thread_ends_with_it(asked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from decant.rag import Answerer

    threads: list[threading.Thread] = []
    stream = Answerer.stream

    def watched(self: Answerer, question: str, **options: Any) -> Any:
        threads.append(threading.current_thread())
        return stream(self, question, **options)

    monkeypatch.setattr(Answerer, "stream", watched)
    for _ in range(2):
        assert asked.http("/ask", {"question": QUESTION}).json["grounded"]
        threads[-1].join(10)
        assert not threads[-1].is_alive()
    assert threads[0] is not threads[1]


def test_ask_over_http_whole_and_in_events(asked: Any) -> None:
    whole = asked.http("/ask", {"question": QUESTION}).json
    assert whole["grounded"] and whole["citations"][0]["text"] == SENTENCE
    assert whole["confidence"] is None  # quotations know no probability
    streamed = asked.http("/ask", {"question": QUESTION, "stream": True})
    assert streamed.headers["content-type"].startswith("text/event-stream")
    *pieces, (name, last) = events(streamed.body)
    assert name == "answer" and json.loads(last) == whole
    assert "".join(json.loads(data)["text"] for _, data in pieces) == whole["text"]
    refused = asked.http("/ask", {"question": "", "stream": True})
    assert refused.status == 400 and "empty" in refused.json["error"]["message"]
    assert asked.http("/documents/tea.txt").json["text"] == DOCUMENTS["tea.txt"]
    assert asked.http("/documents/nothing.txt").status == 404


def test_chat_answers_in_openais_shape(asked: Any) -> None:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    answer = asked.http("/v1/chat/completions", {"messages": messages, "model": "tiny", "temperature": 0.1}).json
    [choice] = answer["choices"]
    message = choice["message"]
    assert answer["object"] == "chat.completion" and choice["finish_reason"] == "stop"
    assert message["role"] == "assistant" and message["citations"][0]["cited_text"] == SENTENCE
    place = message["annotations"][0]["url_citation"]
    assert message["content"][place["start_index"] : place["end_index"] + 1] == "[1]"
    assert place["url"] == "budget.txt" and set(answer["usage"]) >= {"prompt_tokens", "completion_tokens"}


def test_chat_streams_chunks_with_one_id(asked: Any) -> None:
    body = {
        "messages": [{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    *chunks, (_, done) = events(asked.http("/v1/chat/completions", body).body)
    assert done == "[DONE]"
    parsed = [json.loads(data) for _, data in chunks]
    assert len({(chunk["id"], chunk["created"], chunk["object"]) for chunk in parsed}) == 1
    usage = parsed.pop()
    assert usage["choices"] == [] and "total_tokens" in usage["usage"]
    assert parsed[0]["choices"][0]["delta"]["role"] == "assistant"
    assert [chunk["choices"][0]["finish_reason"] for chunk in parsed][-1] == "stop"
    text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in parsed)
    assert SENTENCE in text and parsed[-1]["choices"][0]["delta"]["citations"][0]["filename"] == "budget.txt"


def test_responses_cite_files_whole_and_in_events(asked: Any) -> None:
    tools = [{"type": "file_search", "vector_store_ids": ["default"], "max_num_results": 3}]
    whole = asked.http("/v1/responses", {"input": QUESTION, "tools": tools}).json
    [message] = whole["output"]
    [part] = message["content"]
    assert whole["object"] == "response" and whole["status"] == "completed" and SENTENCE in part["text"]
    assert part["annotations"][0] == {
        "type": "file_citation",
        "file_id": "budget.txt",
        "filename": "budget.txt",
        "index": 0,
    }
    streamed = [
        json.loads(data) for _, data in events(asked.http("/v1/responses", {"input": QUESTION, "stream": True}).body)
    ]
    assert [event["sequence_number"] for event in streamed] == list(range(len(streamed)))
    kinds = [event["type"] for event in streamed]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    text = "".join(event["delta"] for event in streamed if event["type"] == "response.output_text.delta")
    assert text == part["text"] == streamed[-1]["response"]["output"][0]["content"][0]["text"]


@pytest.mark.parametrize(
    ("path", "body", "status", "word"),
    [
        ("/v1/chat/completions", {"messages": []}, 400, "question"),
        ("/v1/chat/completions", {"messages": [{"role": "assistant", "content": "a"}]}, 400, "question"),
        ("/v1/chat/completions", {"messages": [{"role": "wizard", "content": "a"}]}, 400, "wizard"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 400, "text"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "model": "gpt"}, 404, "gpt"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}], "search": {"store": "x"}}, 404, "x"),
        ("/v1/responses", {"input": "a", "previous_response_id": "resp_1"}, 400, "previous_response_id"),
        ("/v1/responses", {"input": "a", "tools": [{"type": "web_search"}]}, 400, "web_search"),
        ("/v1/responses", {"input": "a", "search": {"filter": "nonsense"}}, 400, "filter"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_conversations_that_cannot_be_answered(
    running: Any, path: str, body: dict[str, Any], status: int, word: str, stream: bool
) -> None:
    answer = running.http(path, {**body, "stream": stream})
    assert answer.status == status and word in answer.json["error"]["message"]


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(asked: Any) -> None:
    queue, asking = asked.server.model.queue, asked.server.backend.asking
    with asked.channel() as channel:
        stubs.AnswererStub(channel).Ask(pb.AskRequest(question=QUESTION)).cancel()
        list(stubs.AnswererStub(channel).Ask(pb.AskRequest(question=QUESTION)))
    end = time.monotonic() + 15
    while queue.requests() or asking._running:
        assert time.monotonic() < end
        time.sleep(0.005)


class Endpoint(ThreadingHTTPServer):
    """An OpenAI-compatible endpoint on loopback that writes what it is told, or refuses with a status."""

    daemon_threads = True

    def __init__(self, status: int, text: str) -> None:
        super().__init__(("127.0.0.1", 0), _Endpoint)
        self.status, self.text, self.asked = status, text, list[dict[str, Any]]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class _Endpoint(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        self.send_response(self.server.status)
        self.end_headers()
        event = {"choices": [{"delta": {"content": self.server.text}}]}
        self.wfile.write(f"data: {json.dumps(event)}\n\ndata: [DONE]\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[Callable[..., Endpoint]]:
    made: list[Endpoint] = []

    def start(status: int, text: str) -> Endpoint:
        made.append(Endpoint(status, text))
        threading.Thread(target=made[-1].serve_forever, kwargs={"poll_interval": 0.01}).start()
        return made[-1]

    yield start
    for server in made:
        server.shutdown()
        server.server_close()


def test_an_endpoint_of_the_configuration_writes_and_what_it_invents_is_left_out(
    run_server: Callable[..., Any], mini: Encoder, library: Path, endpoint: Callable[..., Endpoint]
) -> None:
    writer = endpoint(200, f"{SENTENCE} It was adjourned to a Friday in Lisbon.")
    server = run_server(of=mini, store=library, generator=writer.url, generator_model="their-model")
    answer = server.http("/ask", {"question": QUESTION}).json
    assert answer["generator"] == "their-model" and SENTENCE in answer["text"] and "Lisbon" not in answer["text"]
    assert answer["citations"][0]["text"] == SENTENCE
    assert writer.asked[0]["model"] == "their-model" and SENTENCE in json.dumps(writer.asked[0]["messages"])


def test_a_failing_endpoint_is_a_clean_error_at_every_door(
    run_server: Callable[..., Any],
    mini: Encoder,
    library: Path,
    endpoint: Callable[..., Endpoint],
    caplog: pytest.LogCaptureFixture,
) -> None:
    writer = endpoint(401, "their secret reason")
    server = run_server(of=mini, store=library, generator=writer.url, generator_model="m")
    refused = server.http("/ask", {"question": QUESTION}, {"x-request-id": "req-1"})
    assert refused.status == 503 and refused.json["error"]["code"] == "generator_failed"
    streamed = server.http("/ask", {"question": QUESTION, "stream": True})
    assert streamed.status == 503
    with server.channel() as channel, pytest.raises(grpc.RpcError) as failed:
        list(stubs.AnswererStub(channel).Ask(pb.AskRequest(question=QUESTION)))
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE
    for line in (refused.body.decode(), streamed.body.decode(), failed.value.details()):
        assert "writes the answers failed" in line and str(writer.server_port) not in line and "secret" not in line
    assert "req-1" in refused.body.decode()
    assert any(writer.url in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("name", ["reader", "xc"])
def test_who_answers_from_cached_states_by_the_configuration(
    run_server: Callable[..., Any], mini: Encoder, library: Path, encoder: Encoder, store: Path, name: str
) -> None:
    from decant.rag import GeneratorError

    server = run_server(of=mini, store=library, generator=name)
    answer = server.http("/ask", {"question": QUESTION}).json
    # Who is not sure says so, and the documents are quoted.
    assert answer["generator"] == name or name in answer["note"]
    with server.channel() as channel:
        *_, last = stubs.AnswererStub(channel).Ask(pb.AskRequest(question=QUESTION))
    assert 0 < last.answer.confidence == answer["confidence"] < 1
    assert answer["citations"][0]["text"] == SENTENCE
    with pytest.raises(GeneratorError, match="another encoder"):
        run_server(of=encoder, store=store, generator=name)


def test_keys_and_values_are_reused_by_a_decoder_alone(
    run_server: Callable[..., Any], mini: Encoder, library: Path
) -> None:
    from decant.rag import GeneratorError

    with pytest.raises(GeneratorError, match="name its folder"):
        run_server(of=mini, store=library, generator="reader", kv_reuse=0.5)


def test_an_endpoint_needs_the_name_of_its_model() -> None:
    with pytest.raises(ConfigError, match="generator_model"):
        Settings.load(generator="http://127.0.0.1:1/v1")
