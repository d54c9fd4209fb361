"""In float32 on a CPU a text's vector is the same to the last bit alone and in every batch."""

from __future__ import annotations

import random
from collections.abc import Callable, Generator
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.spec import SparseSpec
from decant.kernels.rows import LEAST, LinearByOneDnn, alike_rows, computed_alike

CORPUS = Path(__file__).parents[2] / "examples" / "corpus"


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Generator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def mixed_texts(count: int, longest: int = 200, seed: int = 0) -> list[str]:
    """Texts of one word to `longest`, most of them short."""
    words = " ".join(file.read_text(encoding="utf-8") for file in sorted(CORPUS.rglob("*.md"))[:20]).split()
    chosen = random.Random(seed)
    lengths = [min(longest, 1 + int(chosen.paretovariate(0.7))) for _ in range(count)]
    return [" ".join(chosen.choices(words, k=length)) for length in lengths]


def assert_same_bits(encoder: Encoder, texts: list[str], batches: int, kind: str = "document") -> None:
    def rows(some: list[str]) -> np.ndarray:
        made = encoder.encode(some, kind=kind, outputs=encoder.outputs)
        sparse = [] if made.sparse is None else [made.sparse.toarray().astype(np.float32)]
        dense = [] if made.dense is None else [made.dense]
        return np.concatenate([*dense, *sparse], axis=1)

    alone = np.concatenate([rows([text]) for text in texts])
    assert rows(texts).tobytes() == alone.tobytes()
    chosen = random.Random(1)
    for _ in range(batches):
        picked = chosen.sample(range(len(texts)), chosen.randint(2, len(texts)))
        assert rows([texts[i] for i in picked]).tobytes() == alone[picked].tobytes()


@given(st.integers(1, 5000), st.sampled_from([64, 128, 1024, 4864, 8960, 11008]), st.integers(1, 24), st.booleans())
def test_no_thread_gets_a_piece_that_is_no_whole_vector(rows: int, width: int, threads: int, gelu: bool) -> None:
    with mock.patch.object(torch, "get_num_threads", return_value=threads):
        enough = alike_rows(rows, (width,), gelu=gelu)
    pieces = min(threads, -(-enough * width // 32768))
    assert -(-enough * width // pieces) % 32 == 0
    assert max(rows, LEAST) <= enough
    if not gelu:
        assert enough < rows + LEAST + threads
    elif enough * width > 16384:
        assert -(-enough * width // threads) % 32 == 0


def test_the_shipped_model(mini: Encoder, threads: int) -> None:
    assert_same_bits(mini, mixed_texts(40), 6)


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return Encoder.load(device="cpu", dtype="float32")


@pytest.mark.parametrize(
    ("family", "tokenizer"),
    [("llama", "byte"), ("gpt2", "byte"), ("qwen3", "byte-eos"), ("gemma3_text", "metaspace"), ("mistral", "byte")],
)
def test_other_families(encoder_of: Callable[..., Encoder], threads: int, family: str, tokenizer: str) -> None:
    encoder = encoder_of(EncoderSpec(max_tokens=64), family, tokenizer)
    assert_same_bits(encoder, mixed_texts(30), 6)


@pytest.mark.parametrize(
    "spec",
    [
        EncoderSpec(max_tokens=64, prompts={"query": "find: ", "document": ""}, include_prompt=False),
        EncoderSpec(max_tokens=64, pooling="weighted_mean"),  # type: ignore[arg-type]
    ],
    ids=["prompt left out", "weighted"],
)
def test_other_heads(encoder_of: Callable[..., Encoder], threads: int, spec: EncoderSpec) -> None:
    kind = "query" if spec.prompts else "document"
    assert_same_bits(encoder_of(spec), mixed_texts(30), 6, kind)


def test_terms(new_model: Callable[..., Path], threads: int) -> None:
    spec = EncoderSpec(attention="causal", max_tokens=64, sparse=SparseSpec())  # type: ignore[arg-type]
    encoder = Encoder.load(new_model(lm=True), dtype="float32", spec=spec)
    assert_same_bits(encoder, mixed_texts(30), 6)


def test_a_layer_behind_the_pooling(threads: int) -> None:
    torch.manual_seed(0)
    layer, vectors = torch.nn.Linear(384, 96), torch.randn(64, 384)
    with torch.inference_mode():
        among_others = computed_alike(layer, vectors)
        assert all(torch.equal(computed_alike(layer, vectors[:n]), among_others[:n]) for n in range(1, 40))


@pytest.mark.parametrize(("width", "wide"), [(1536, 384), (4864, 896), (64, 176)])
def test_rows_of_a_product(threads: int, width: int, wide: int) -> None:
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(width, wide), torch.randn(300, width)
    with torch.inference_mode(), LinearByOneDnn():
        y = layer(x)
        assert all(torch.equal(layer(x[:n]), y[:n]) for n in (LEAST, 3, 7, 12, 13, 57, 130, 167, 299))
        # GPT-2's layers hold their weights the other way.
        turned = layer.weight.t().contiguous()
        assert all(torch.equal(torch.addmm(layer.bias, x[:n], turned), y[:n]) for n in (LEAST, 57, 300))
    with torch.no_grad():
        torch.testing.assert_close(y, layer(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_ten_thousand_texts(mini: Encoder) -> None:
    texts = mixed_texts(10_000, longest=60)
    alone = np.concatenate([mini.encode([text]).dense for text in texts])  # type: ignore[misc]
    assert mini.encode(texts).dense.tobytes() == alone.tobytes()  # type: ignore[union-attr]
    chosen, done = random.Random(2), 0
    order = chosen.sample(range(len(texts)), len(texts))
    while done < len(order):
        picked = order[done : done + chosen.randint(1, 60)]
        assert mini.encode([texts[i] for i in picked]).dense.tobytes() == alone[picked].tobytes()  # type: ignore[union-attr]
        done += len(picked)
