"""The examples of docs/clients.md, each with the package it is for."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from decant.embedder import Encoder

TEXTS = ["Rivers carry water.", "The committee met on Tuesday."]


@pytest.fixture
def base_url(running: Any) -> str:
    return f"http://127.0.0.1:{running.server.http_port}/v1"


def test_openai_embeds_by_base64_and_meets_its_own_errors(base_url: str, encoder: Encoder) -> None:
    openai = pytest.importorskip("openai", reason="the dev extra is not installed")
    with openai.OpenAI(base_url=base_url, api_key="none") as client:
        made = client.embeddings.create(model="tiny", input=TEXTS)
        got = np.array([row.embedding for row in made.data], np.float32)
        assert np.abs(got - encoder.encode(TEXTS).dense).max() <= 1e-6 and made.usage.total_tokens > 0
        assert [model.id for model in client.models.list()] == ["tiny"]
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="gpt", input="a")
        with pytest.raises(openai.BadRequestError):
            client.embeddings.create(model="tiny", input="")


def test_openai_converses_and_reads_the_citations(base_url: str) -> None:
    openai = pytest.importorskip("openai", reason="the dev extra is not installed")
    question = "What did the committee discuss on Tuesday?"
    with openai.OpenAI(base_url=base_url, api_key="none") as client:
        messages = [{"role": "user", "content": question}]
        whole = client.chat.completions.create(model="tiny", messages=messages)
        message = whole.choices[0].message
        assert message.content and whole.usage is not None
        parts = client.chat.completions.create(model="tiny", messages=messages, stream=True)
        text = "".join(part.choices[0].delta.content or "" for part in parts)
        assert text == message.content
        response = client.responses.create(model="tiny", input=question)
        assert response.output_text == text and response.status == "completed"
        events = list(client.responses.create(model="tiny", input=question, stream=True))
        assert events[-1].type == "response.completed" and events[-1].response.output_text == text


def test_langchain_embeds(base_url: str, encoder: Encoder) -> None:
    library = pytest.importorskip("langchain_openai", reason="the dev extra is not installed")
    model = library.OpenAIEmbeddings(base_url=base_url, api_key="none", model="tiny", check_embedding_ctx_length=False)
    got = np.array(model.embed_documents(TEXTS), np.float32)
    assert np.abs(got - encoder.encode(TEXTS).dense).max() <= 1e-6
    assert len(model.embed_query("a question")) == 32


def test_llamaindex_embeds(base_url: str, encoder: Encoder) -> None:
    with warnings.catch_warnings():
        # The package's own imports warn on new Pythons and pydantic.
        warnings.simplefilter("ignore")
        library = pytest.importorskip("llama_index.embeddings.openai_like", reason="the dev extra is not installed")
        model = library.OpenAILikeEmbedding(model_name="tiny", api_base=base_url, api_key="none")
        got = np.array(model.get_text_embedding_batch(TEXTS), np.float32)
    assert np.abs(got - encoder.encode(TEXTS).dense).max() <= 1e-6


def test_openais_client_waits_as_it_is_told(run_server: Callable[..., Any]) -> None:
    openai = pytest.importorskip("openai", reason="the dev extra is not installed")
    from decant.service.keys import hash_key

    keys = [{"sha256": hash_key("k"), "tenant": "a"}]
    server = run_server(api_keys=keys, tenants={"a": {"requests_per_minute": 120}})
    for _ in range(120):
        server.server.backend.keys.admit("Bearer k", "embed")

    async def body() -> int:
        async with openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.server.http_port}/v1", api_key="k", max_retries=3
        ) as client:
            return len((await client.embeddings.create(model="tiny", input=TEXTS)).data)

    # Refused with a hint of half a second, tried again by the client itself, answered.
    assert asyncio.run(body()) == 2
