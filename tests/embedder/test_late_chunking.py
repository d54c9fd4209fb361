"""Late chunking: vectors that know their document, exact where one window holds it, whole where it needs several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.errors import InputError
from decant.embedder.late_chunking import windows_of

TEXT = "Berlin is the capital of Germany. It has 3.8 million inhabitants. The city lies on the Spree."


def _spans(text: str) -> list[tuple[int, int]]:
    ends = [i + 1 for i, char in enumerate(text) if char == "."]
    ends = [end for end in ends if end == len(text) or text[end] == " "]
    starts = [0, *(end + 1 for end in ends[:-1])]
    return list(zip(starts, ends, strict=True))


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder.load(dtype="float32", verify=False)


def test_a_chunk_is_the_mean_of_its_tokens_in_the_whole_document(encoder: Encoder) -> None:
    spans = _spans(TEXT)
    assert len(spans) == 3
    got = encoder.encode_chunks(TEXT, spans)
    template = encoder.spec.template("document", None, ())
    wrapped = template.wrap(TEXT)
    encoding = encoder.tokenizer.encode(wrapped, add_special_tokens=encoder.spec.add_special_tokens)
    ids = torch.tensor(encoder.text_tokenizer([TEXT], template).ids[0]).long()
    with torch.inference_mode():
        hidden = encoder.backbone(ids, encoder.backbone.layout([len(ids)]))
    before = len(wrapped) - len(TEXT)
    for (start, stop), vector in zip(spans, got, strict=True):
        inside = [
            i
            for i, (a, b) in enumerate(encoding.offsets)
            if a < stop + before and b > start + before and not encoding.special_tokens_mask[i]
        ]
        mean = encoder.head.linears[0](hidden[inside].mean(0)).detach()
        np.testing.assert_allclose(vector, (mean / mean.norm()).numpy(), atol=1e-5)


def test_the_rest_of_the_document_changes_a_chunk(encoder: Encoder) -> None:
    alone = encoder.encode([TEXT[start:stop] for start, stop in _spans(TEXT)]).dense
    late = encoder.encode_chunks(TEXT, _spans(TEXT))
    assert ((alone * late).sum(1) < 0.99).all(), "chunks were encoded alone"


def test_a_long_document_is_read_in_windows_that_hold_every_chunk(encoder: Encoder) -> None:
    text = " ".join(f"Sentence number {i} of a long report says something about topic {i % 7}." for i in range(150))
    spans = _spans(text)
    windows = list(windows_of(encoder, text, spans, encoder.spec.template("document", None, ())))
    assert len(windows) > 2
    assert [number for window in windows for number, _ in window.chunks] == list(range(len(spans)))
    assert max(len(window.ids) for window in windows) <= encoder.max_tokens
    for window in windows:
        for number, tokens in window.chunks:
            words = encoder.tokenizer.decode(window.ids[tokens].tolist())
            assert words.strip().lower().startswith("sentence") and words.strip().endswith("."), number
    for window in windows[1:]:
        assert window.chunks[0][1][0] > encoder.max_tokens // 8, "the first chunk of a window has context before it"
    vectors = encoder.encode_chunks(text, spans, batch_tokens=600)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(vectors, encoder.encode_chunks(text, spans), atol=1e-5)


def test_narrower_vectors(encoder: Encoder) -> None:
    width = min(encoder.spec.dimensions, default=encoder.dimension)
    assert encoder.encode_chunks(TEXT, _spans(TEXT), dimensions=width).shape == (3, width)


@pytest.mark.parametrize(
    ("spans", "why"),
    [
        ([(0, 5), (6, 7)], "holds no token"),
        ([(40, 50), (0, 5)], "in the order"),
        ([(0, 100000)], "make it smaller"),
    ],
)
def test_mistakes_are_named(encoder: Encoder, spans: list[tuple[int, int]], why: str) -> None:
    text = TEXT if why != "make it smaller" else TEXT * 40
    with pytest.raises(InputError, match=why):
        encoder.encode_chunks(text, spans)


def test_no_chunks_no_vectors(encoder: Encoder) -> None:
    assert encoder.encode_chunks(TEXT, []).shape == (0, encoder.dimension)


def test_a_causal_encoder_is_refused(tiny_model: Path) -> None:
    spec = EncoderSpec(attention="causal", pooling="last", max_tokens=64)
    causal = Encoder.load(tiny_model, spec=spec, verify=False)
    with pytest.raises(InputError, match="this one is causal"):
        causal.encode_chunks("a text", [(0, 3)])
