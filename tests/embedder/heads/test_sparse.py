"""The SPLADE head against transformers' own logits, and against sentence-transformers' sparse encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from decant.embedder import Encoder, EncoderSpec, InputError, ModelError, UnsupportedModelError
from decant.embedder.spec import SparseSpec
from decant.embedder.verify import sparse_pooling
from decant.kernels.attention import PackedLayout
from decant.kernels.pooling import max_logits, splade_weights

TEXTS = ["Rivers carry water from the mountains to the sea.", "short text", "a", "words and words and words " * 6]
SPARSE = EncoderSpec(attention="causal", max_tokens=64, sparse=SparseSpec())  # type: ignore[arg-type]


@pytest.fixture
def encoder_with_head(new_model: Callable[..., Path]) -> Callable[..., Encoder]:
    def make(family: str = "llama", tokenizer: str = "byte", spec: EncoderSpec = SPARSE, **config: Any) -> Encoder:
        folder = new_model(family, tokenizer, lm=True, **config)
        return Encoder.load(folder, dtype="float32", spec=spec)

    return make


@torch.no_grad()
def plainly(encoder: Encoder, text: str, prompt: str = "") -> np.ndarray:
    """log(1 + relu(logit)), the largest over the text's tokens, by the causal language model itself."""
    model = AutoModelForCausalLM.from_pretrained(encoder.path, attn_implementation="eager").eval()
    ids = encoder.tokenizer.encode(prompt + text).ids
    logits = model(torch.tensor([ids])).logits[0]
    plain = [i for i, token in enumerate(ids) if token > 3]
    weights = torch.log1p(logits[plain].relu()).amax(0)
    weights[:4] = 0
    weights[encoder.tokenizer.get_vocab_size() :] = 0
    return weights.numpy()


@pytest.mark.parametrize("tokenizer", ["byte", "metaspace"])
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("llama", {"tie_word_embeddings": False}),
        ("llama", {"tie_word_embeddings": True}),
        ("qwen2", {}),
        ("gemma2", {"final_logit_softcapping": 0.5}),
        ("cohere", {"logit_scale": 3.0}),
        ("granite", {"logits_scaling": 0.25}),
        ("gpt_neox", {}),
        ("phi", {}),
    ],
)
def test_agrees_with_the_language_model(
    family: str, config: dict[str, Any], tokenizer: str, encoder_with_head: Callable[..., Encoder]
) -> None:
    encoder = encoder_with_head(family, tokenizer, **config)
    sparse = encoder.encode(TEXTS, outputs=["sparse"]).sparse
    assert sparse is not None and sparse.shape == (4, 320)
    for row, text in zip(sparse.toarray(), TEXTS, strict=True):
        assert np.abs(row - plainly(encoder, text)).max() <= 1e-5
    assert sparse.nnz > 100


def test_one_pass_gives_both_and_rows_stay_in_order(encoder_with_head: Callable[..., Encoder]) -> None:
    encoder = encoder_with_head()
    both = encoder.encode(TEXTS, outputs=["dense", "sparse"])
    assert both.dense is not None and both.sparse is not None
    assert np.array_equal(both.dense, encoder.encode(TEXTS).dense)
    assert encoder.encode(TEXTS).sparse is None
    for i, text in enumerate(TEXTS):
        alone = encoder.encode(text, outputs=["sparse"])
        assert alone.dense is None and alone.sparse is not None
        assert np.abs(alone.sparse.toarray() - both.sparse[[i]].toarray()).max() <= 1e-6
    tight = encoder.encode(TEXTS, outputs=["sparse"], batch_tokens=1).sparse
    assert tight is not None and np.abs((tight - both.sparse).toarray()).max() <= 1e-6
    nothing = encoder.encode([], outputs=["sparse"]).sparse
    assert nothing is not None and nothing.shape == (0, 320)


def test_a_bos_sink_does_not_change_a_row(encoder_with_head: Callable[..., Encoder]) -> None:
    """A BOS whose logits are enormous, as trained decoders have it; without the rule it would win every maximum."""
    encoder = encoder_with_head(tokenizer="metaspace", tie_word_embeddings=False)
    rows = encoder.encode(TEXTS, outputs=["sparse"]).sparse
    assert rows is not None
    forward = encoder.backbone.__class__.__call__

    def with_sink(self: Any, ids: torch.Tensor, layout: PackedLayout) -> torch.Tensor:
        hidden = forward(self, ids, layout).clone()
        hidden[ids == 1] *= 1000.0
        return hidden

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoder.backbone.__class__, "__call__", with_sink)
        sunk = encoder.encode(TEXTS, outputs=["sparse"]).sparse
        assert sunk is not None and np.array_equal(sunk.toarray(), rows.toarray())
        fooled = Encoder.load(
            encoder.path, dtype="float32", verify=False, spec=replace(SPARSE, sparse=SparseSpec(special_tokens=True))
        )
        assert np.abs(fooled.encode(TEXTS, outputs=["sparse"]).sparse.toarray() - rows.toarray()).max() > 1
    assert not rows[:, [0, 1, 2, 3]].nnz


def test_unpooled_prompt_stays_out(encoder_with_head: Callable[..., Encoder]) -> None:
    spec = replace(SPARSE, prompts={"query": "query: "}, include_prompt=False)
    encoder = encoder_with_head(spec=spec)
    rows = encoder.encode(["sea"], kind="query", outputs=["sparse"]).sparse
    assert rows is not None
    tokenized = encoder.text_tokenizer(["sea"], "query: ")
    model = AutoModelForCausalLM.from_pretrained(encoder.path).eval()
    with torch.no_grad():
        logits = model(torch.from_numpy(tokenized.ids[0]).long()[None]).logits[0, tokenized.pool_from[0] :]
    expected = torch.log1p(logits.relu()).amax(0)
    expected[:4] = 0
    expected[encoder.tokenizer.get_vocab_size() :] = 0
    assert np.abs(rows.toarray()[0] - expected.numpy()).max() <= 1e-5


def test_shifted_head_speaks_of_the_next_token(encoder_with_head: Callable[..., Encoder]) -> None:
    """Trained by MNTP, logits at a place are the next token's: BOS speaks, the last token and the prompt's do not."""
    spec = replace(SPARSE, prompts={"query": "query: "}, include_prompt=False, sparse=SparseSpec(shifted=True))
    encoder = encoder_with_head(tokenizer="metaspace", spec=spec)
    model = AutoModelForCausalLM.from_pretrained(encoder.path, attn_implementation="eager").eval()
    for kind, text in (("document", TEXTS[0]), ("document", "a"), ("query", TEXTS[1])):
        tokenized = encoder.text_tokenizer([text], spec.template(kind))
        ids, start = tokenized.ids[0], max(1, int(tokenized.pool_from[0]))
        with torch.no_grad():
            logits = model(torch.from_numpy(ids).long()[None]).logits[0, start - 1 : len(ids) - 1]
        expected = torch.log1p(logits.relu()).amax(0)
        expected[:4] = 0
        expected[encoder.tokenizer.get_vocab_size() :] = 0
        rows = encoder.encode([text], kind=kind, outputs=["sparse"]).sparse
        assert np.abs(rows.toarray()[0] - expected.numpy()).max() <= 1e-5
    assert sparse_pooling(encoder).passed
    encoder.sparse_head._spec = SparseSpec()
    assert not sparse_pooling(encoder).passed


def test_cap_keeps_the_heaviest(encoder_with_head: Callable[..., Encoder]) -> None:
    encoder = encoder_with_head()
    whole = encoder.encode(TEXTS, outputs=["sparse"]).sparse
    capped = Encoder.load(encoder.path, dtype="float32", spec=replace(SPARSE, sparse=SparseSpec(top_k=7)))
    rows = capped.encode(TEXTS, outputs=["sparse"]).sparse
    assert whole is not None and rows is not None
    for few, all_ in zip(rows.toarray(), whole.toarray(), strict=True):
        assert np.count_nonzero(few) == 7
        assert np.allclose(np.sort(few)[-7:], np.sort(all_)[-7:])


def test_terms_read_as_words_heaviest_first(encoder_with_head: Callable[..., Encoder]) -> None:
    encoder = encoder_with_head()
    rows = encoder.encode(TEXTS, outputs=["sparse"]).sparse
    assert rows is not None
    told = encoder.terms(rows, top=5)
    assert [len(row) for row in told] == [5] * 4
    for row, dense in zip(told, rows.toarray(), strict=True):
        weights = [weight for _, weight in row]
        assert np.allclose(weights, -np.sort(-dense)[:5])
        term = int(dense.argmax())
        assert row[0][0] in (encoder.tokenizer.decode([term]).strip(), encoder.tokenizer.id_to_token(term))


@pytest.mark.parametrize("tied", [False, True])
def test_saved_and_loaded_again_gives_the_same_rows(
    tied: bool, encoder_with_head: Callable[..., Encoder], tmp_path: Path
) -> None:
    encoder = encoder_with_head(tie_word_embeddings=tied)
    encoder.save(tmp_path / "saved")
    again = Encoder.load(tmp_path / "saved", dtype="float32")
    assert again.outputs == ("dense", "sparse")
    rows = [one.encode(TEXTS, outputs=["sparse"]).sparse for one in (encoder, again)]
    # Not to the bit: where weights lie in memory decides how a matrix product rounds.
    assert np.abs(rows[0].toarray() - rows[1].toarray()).max() <= 1e-6
    before = again.fingerprint
    if not tied:
        file = tmp_path / "saved/model.safetensors"
        state = load_file(file)
        save_file({**state, "lm_head.weight": state["lm_head.weight"] + 1}, file, metadata={"format": "pt"})
        assert Encoder.load(tmp_path / "saved", dtype="float32").fingerprint != before


def test_agrees_with_sentence_transformers(encoder_with_head: Callable[..., Encoder]) -> None:
    """Its sparse encoder over a causal language model pools every token; so does this spec, where it says so."""
    from sentence_transformers import SparseEncoder
    from sentence_transformers.base.modules.transformer import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    spec = replace(SPARSE, sparse=SparseSpec(special_tokens=True))
    encoder = encoder_with_head("llama", "metaspace", spec)
    backbone = Transformer(
        str(encoder.path),
        transformer_task="text-generation",
        module_output_name="token_embeddings",
        modality_config={"text": {"method": "forward", "method_output_name": "logits"}},
        processing_kwargs={"text": {"logits_to_keep": 0}},  # its default reads the last token only
    )
    plain = SparseEncoder(modules=[backbone, SpladePooling("max")], device="cpu")
    vocabulary = encoder.tokenizer.get_vocab_size()
    expected = plain.encode(TEXTS, convert_to_tensor=True).to_dense().numpy()[:, :vocabulary]
    rows = encoder.encode(TEXTS, outputs=["sparse"]).sparse
    assert rows is not None
    assert np.abs(rows.toarray()[:, :vocabulary] - expected).max() <= 1e-5


@pytest.mark.parametrize("lengths", [[1], [3, 3, 3, 2, 1, 1], [40, 7, 7, 1]])
@pytest.mark.parametrize("masked", [False, True])
def test_tiles_equal_one_logit_matrix_forward_and_gradient(
    lengths: list[int], masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("TILE_TOKENS", 6), ("TILE_TERMS", 7), ("GRADIENT_TOKENS", 4)):
        monkeypatch.setattr(import_module("decant.kernels.pooling.splade"), name, size)
    layout = PackedLayout.from_lengths(lengths, causal=True)
    total = sum(lengths)
    keep = torch.arange(total) % 3 != 1 if masked else None
    hidden = torch.randn(total, 8)
    weight, bias = torch.randn(30, 8), torch.randn(30)
    grads: list[torch.Tensor] = []
    results: list[torch.Tensor] = []
    for tiled in (True, False):
        x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        if tiled:
            logits = max_logits(x, layout, keep, w, bias)
        else:
            whole = x @ w.T + bias
            whole = whole if keep is None else whole.masked_fill(~keep[:, None], float("-inf"))
            logits = torch.stack([row.amax(0) for row in whole.split(lengths)])
        splade_weights(logits).square().sum().backward()
        assert x.grad is not None and w.grad is not None
        results.append(logits.detach())
        grads.append(torch.cat([x.grad.flatten(), w.grad.flatten()]))
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(grads[0], grads[1], atol=1e-4, rtol=1e-4)


def test_training_keeps_no_logits_of_the_batch() -> None:
    """Autograd would keep every tile's for the backward pass, and with them (tokens, V)."""
    lengths, terms = [50] * 12 + [7] * 60, 400
    hidden, weight = torch.randn(sum(lengths), 4, requires_grad=True), torch.randn(terms, 4, requires_grad=True)
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = max_logits(hidden, PackedLayout.from_lengths(lengths, causal=True), None, weight).sum()
    assert sum(kept.values()) < 2 * len(lengths) * terms < sum(lengths) * terms / 5
    loss.backward()


def test_what_has_no_head_is_refused(new_model: Callable[..., Path], encoder_with_head: Callable[..., Encoder]) -> None:
    with pytest.raises(ModelError, match="has no language-model head"):
        Encoder.load(new_model("llama", tie_word_embeddings=False, name="bare"), spec=SPARSE)
    spec = replace(SPARSE, attention="bidirectional")
    with pytest.raises(ModelError, match=r"bert has no language-model head \(cls.predictions.* is missing\)"):
        Encoder.load(new_model("bert", "wordpiece", name="bert"), dtype="float32", spec=spec)
    with pytest.raises(UnsupportedModelError, match="clip_text_model has no plain language-model head"):
        Encoder.load(new_model("clip_text_model", name="clip"), dtype="float32", spec=SPARSE)
    with pytest.raises(InputError, match="offers dense and sparse vectors, not router"):
        encoder_with_head().encode(["a"], outputs=["router"])
    with pytest.raises(ModelError, match="top_k must be at least 1"):
        SparseSpec(top_k=0)


class TestVerification:
    @pytest.mark.parametrize("tokenizer", ["byte", "metaspace"])
    @pytest.mark.parametrize("sparse", [SparseSpec(), SparseSpec(top_k=5, double_log=True), SparseSpec(None, True)])
    def test_healthy_head_passes(
        self, sparse: SparseSpec, tokenizer: str, encoder_with_head: Callable[..., Encoder]
    ) -> None:
        encoder = encoder_with_head("qwen2", tokenizer, replace(SPARSE, sparse=sparse))
        measured = sparse_pooling(encoder)
        assert measured.passed and "no sparse head" not in measured.detail

    def test_bos_in_the_maximum_fails(self, encoder_with_head: Callable[..., Encoder]) -> None:
        encoder = encoder_with_head(tokenizer="metaspace")
        assert encoder.sparse_head is not None
        encoder.sparse_head._special = encoder.sparse_head._special[:0]
        assert not sparse_pooling(encoder).passed

    def test_padding_terms_fail(self, encoder_with_head: Callable[..., Encoder]) -> None:
        encoder = encoder_with_head()
        assert encoder.sparse_head is not None
        encoder.sparse_head._open[:] = True
        assert not sparse_pooling(encoder).passed

    def test_lost_scale_fails(self, encoder_with_head: Callable[..., Encoder]) -> None:
        encoder = encoder_with_head("cohere", logit_scale=3.0)
        assert encoder.sparse_head is not None and sparse_pooling(encoder).passed
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                type(encoder.sparse_head),
                "weights",
                lambda head, hidden, ids, layout, keep: splade_weights(
                    max_logits(hidden, layout, keep, head.lm_head.weight)
                ),
            )
            assert not sparse_pooling(encoder).passed
