"""`Encoder.token_vectors`: the states of a text's own tokens, whatever stands around it or beside it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from decant.embedder import Encoder, EncoderSpec, InputError
from decant.index.rerank import LateInteraction, late_interaction

TEXTS = ["Rivers carry water from the mountains to the sea.", "sea", "words and word"]


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return Encoder.load(dtype="float32", verify=False)


@pytest.mark.parametrize("tokenizer", ["byte", "byte-eos", "metaspace", "wordpiece"])
@pytest.mark.parametrize("include_prompt", [True, False])
def test_are_the_hidden_states_of_the_text_alone(
    encoder_of: Callable[..., Encoder], tokenizer: str, include_prompt: bool
) -> None:
    spec = EncoderSpec(prompts={"query": "query: ", "document": ""}, max_tokens=48, include_prompt=include_prompt)
    encoder = encoder_of(spec, tokenizer=tokenizer)
    for kind in ("query", "document"):
        got = encoder.token_vectors(TEXTS, kind=kind)
        for text, rows in zip(TEXTS, got, strict=True):
            prompt = spec.prompts[kind]
            encoding = encoder.tokenizer.encode(prompt + text)
            own = [
                i
                for i, (start, end) in enumerate(encoding.offsets)
                if end > len(prompt) and start >= len(prompt.rstrip()) and not encoding.special_tokens_mask[i]
            ]
            with torch.inference_mode():
                hidden = encoder.backbone(torch.tensor(encoding.ids), encoder.backbone.layout([len(encoding.ids)]))
            expected = hidden[own] / hidden[own].norm(dim=1, keepdim=True)
            assert rows.dtype == np.float32
            np.testing.assert_allclose(rows, expected.numpy(), atol=1e-5)


def test_do_not_depend_on_company_or_budget(mini: Encoder) -> None:
    together = mini.token_vectors(TEXTS, batch_tokens=7)
    for text, rows in zip(TEXTS, together, strict=True):
        [alone] = mini.token_vectors([text])
        np.testing.assert_allclose(rows, alone, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert mini.token_vectors([]) == []


def test_their_mean_points_where_the_pooled_vector_does(mini: Encoder) -> None:
    """Only roughly: the pooled one averages before, these rows come at unit length, and special tokens are missing."""
    dense = mini.encode(TEXTS).dense
    assert dense is not None
    [rotation] = mini.head.linears
    dense = dense @ rotation.weight.numpy(force=True)
    for vector, rows in zip(dense, mini.token_vectors(TEXTS), strict=True):
        mean = rows.mean(axis=0)
        assert vector @ mean / np.linalg.norm(mean) > 0.7


def test_late_interaction_finds_the_passage_that_holds_the_words(mini: Encoder) -> None:
    reranker = LateInteraction(mini)
    [query] = mini.token_vectors(["water from the mountains"], kind="query")
    passages = mini.token_vectors([TEXTS[0], "The committee met on Tuesday."])
    scores = [late_interaction(query, passage) for passage in passages]
    assert scores[0] > scores[1] + 0.1
    assert reranker.scores("water", []).shape == (0,)


def test_what_cannot_be_honoured_is_refused(mini: Encoder) -> None:
    with pytest.raises(InputError, match="kind"):
        mini.token_vectors(["a"], kind="nonsense")
    with pytest.raises(InputError, match="tokens"):
        mini.token_vectors(["word " * 600], truncate="error")
    [cut] = mini.token_vectors(["word " * 600])
    assert 500 <= len(cut) <= mini.max_tokens
