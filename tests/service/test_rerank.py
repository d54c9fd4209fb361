from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from decant.embedder import Encoder
from decant.service.proto.decant.v1 import decant_pb2 as pb
from decant.service.proto.decant.v1 import decant_pb2_grpc as stubs
from decant.service.proto.tei.v1 import tei_pb2 as tei
from decant.service.proto.tei.v1 import tei_pb2_grpc as tei_stubs

QUERY = "who met about the budget?"
TEXTS = [
    "Rivers carry water to the sea.",
    "The committee met on Tuesday and discussed the budget.",
    "def add(a, b): return a + b",
    "a",
]


@pytest.fixture(scope="session")
def cross_encoder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random cross-encoder as sentence-transformers saves one."""
    import torch
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    folder = tmp_path_factory.mktemp("cross-encoder")
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        num_labels=1,
        initializer_range=0.5,
        pad_token_id=0,
    )
    # Random classifiers give scores that are all alike, which no test of an order could tell apart.
    model = BertForSequenceClassification(config)
    torch.nn.init.normal_(model.classifier.weight, std=2.0)
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.model_max_length = 64
    tokenizer.save_pretrained(folder)
    return folder


def cosines(encoder: Encoder) -> np.ndarray:
    return encoder.encode(TEXTS).dense @ encoder.encode(QUERY, kind="query").dense[0]


def test_an_encoder_reranks_by_cosine(running: Any, encoder: Encoder) -> None:
    expected = cosines(encoder)
    order = np.argsort(-expected, kind="stable").tolist()
    with running.channel() as channel:
        rerank = stubs.RerankerStub(channel)
        raw = rerank.Rerank(pb.RerankRequest(query=QUERY, texts=TEXTS, raw_scores=True))
        assert [rank.index for rank in raw.ranks] == order and raw.model == "tiny" and raw.tokens > 0
        assert np.abs(np.array([rank.score for rank in raw.ranks]) - expected[order]).max() <= 1e-6
        two = rerank.Rerank(pb.RerankRequest(query=QUERY, texts=TEXTS, top_n=2)).ranks
        assert [rank.index for rank in two] == order[:2] and all(0 <= rank.score <= 1 for rank in two)
        answer = tei_stubs.RerankStub(channel).Rerank(tei.RerankRequest(query=QUERY, texts=TEXTS, return_text=True))
        assert [(rank.index, rank.text) for rank in answer.ranks] == [(i, TEXTS[i]) for i in order]
        messages = [tei.RerankStreamRequest(query=QUERY, text=text, raw_scores=True) for text in TEXTS]
        streamed = tei_stubs.RerankStub(channel).RerankStream(iter(messages))
        assert [rank.index for rank in streamed.ranks] == order and not streamed.ranks[0].HasField("text")


def test_rerank_over_http_in_both_shapes(running: Any, encoder: Encoder) -> None:
    expected = cosines(encoder)
    order = np.argsort(-expected, kind="stable").tolist()
    body = {"query": QUERY, "documents": [TEXTS[0], {"text": TEXTS[1]}, *TEXTS[2:]], "model": "tiny", "top_n": 3}
    answer = running.http("/v1/rerank", {**body, "return_documents": True}).json
    assert [row["index"] for row in answer["results"]] == order[:3]
    assert [row["document"]["text"] for row in answer["results"]] == [TEXTS[i] for i in order[:3]]
    scores = [row["relevance_score"] for row in answer["results"]]
    assert np.abs(np.array(scores) - (1 + expected[order[:3]]) / 2).max() <= 1e-6
    assert answer["usage"]["total_tokens"] > 0 and answer["id"]
    tei_shape = running.http("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True}).json
    assert [row["index"] for row in tei_shape] == order and "text" not in tei_shape[0]
    cut = running.http("/v1/rerank", {"query": QUERY, "documents": ["water " * 200]}).json
    assert cut["results"][0]["truncated"] is True


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/rerank", {"query": QUERY, "documents": []}, 400),
        ("/v1/rerank", {"query": "", "documents": ["a"]}, 400),
        ("/v1/rerank", {"query": QUERY, "documents": ["a", ""]}, 400),
        ("/v1/rerank", {"query": QUERY, "documents": ["a"], "model": "other"}, 404),
        ("/v1/rerank", {"query": QUERY, "documents": ["a"] * 65}, 400),
        ("/v1/rerank", {"query": QUERY, "documents": ["a"], "top_n": 0}, 400),
        ("/rerank", {"query": QUERY, "texts": []}, 400),
        ("/rerank", {"query": QUERY, "texts": ["water " * 200], "truncate": False}, 422),
    ],
)
def test_what_cannot_be_ranked_is_refused(running: Any, path: str, body: dict[str, Any], status: int) -> None:
    assert running.http(path, body).status == status


def test_late_interaction_is_the_mean_of_the_best_matches(run_server: Callable[..., Any], encoder: Encoder) -> None:
    from decant.service.token_states import token_states

    server = run_server(rerank="late")
    expected: list[float] = []
    asked = encoder.text_tokenizer([QUERY], encoder.spec.template("query", None), "end").ids
    read = encoder.text_tokenizer(TEXTS, encoder.spec.template("document", None), "end").ids
    [question] = token_states(encoder, asked)
    for ids in read:
        [states] = token_states(encoder, [ids])
        best = [max(float(q @ s / np.linalg.norm(q) / np.linalg.norm(s)) for s in states) for q in question]
        expected.append(sum(best) / len(best))
    with server.channel() as channel:
        ranks = stubs.RerankerStub(channel).Rerank(pb.RerankRequest(query=QUERY, texts=TEXTS, raw_scores=True)).ranks
    got = {rank.index: rank.score for rank in ranks}
    assert np.abs(np.array([got[i] for i in range(4)]) - np.array(expected)).max() <= 1e-5


def test_a_cross_encoder_is_served_beside_the_encoder(run_server: Callable[..., Any], cross_encoder: Path) -> None:
    from sentence_transformers import CrossEncoder

    server = run_server(models=[{"name": "judge", "kind": "reranker", "path": str(cross_encoder), "device": "cpu"}])
    pairs = [(QUERY, text) for text in TEXTS]
    alone = [CrossEncoder(str(cross_encoder), device="cpu").predict([pair])[0] for pair in pairs]
    answer = server.http("/v1/rerank", {"query": QUERY, "documents": TEXTS}).json
    assert answer["model"] == "judge"
    got = {row["index"]: row["relevance_score"] for row in answer["results"]}
    assert np.abs(np.array([got[i] for i in range(4)]) - np.array(alone)).max() <= 1e-5
    assert np.std(alone) > 1e-3
    assert server.http("/v1/rerank", {"query": QUERY, "documents": TEXTS, "model": "tiny"}).json["model"] == "tiny"
    assert server.http("/v1/embeddings", {"input": "a", "model": "judge"}).json["error"]["code"] == "not_offered"
    assert [row["id"] for row in server.http("/v1/models").json["data"]] == ["tiny", "judge"]
    assert server.http("/rerank", {"query": QUERY, "texts": ["water " * 200], "truncate": False}).status == 422
    assert server.http("/health").status == 200
    with server.channel() as channel:
        with pytest.raises(grpc.RpcError) as refused:
            stubs.RerankerStub(channel).Rerank(pb.RerankRequest(query="", texts=["a"]))
        assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
