"""SparseEncoder folders of plain sentence-transformers: read, agreed with, written so that it reads them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SparseEncoder
from sentence_transformers.base.modules.transformer import Transformer
from sentence_transformers.sparse_encoder.modules import SpladePooling
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, PretrainedConfig, PreTrainedTokenizerFast

from decant.embedder import Encoder, UnsupportedModelError
from decant.embedder.spec import Attention, Pooling, SparseSpec
from decant.embedder.verify import verify_encoder

TEXTS = ["Rivers carry water from the mountains to the sea.", "short text", "a", "words and words and words " * 3]
MASKED = ["bert", "roberta", "distilbert", "modernbert", "albert", "electra", "mpnet", "xlm-roberta", "eurobert"]
BOUND = 1e-5


@pytest.fixture
def sparse_encoder(
    tmp_path: Path,
    config_of: Callable[..., PretrainedConfig],
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
) -> Callable[..., tuple[SparseEncoder, Path]]:
    """Make a random SparseEncoder with sentence-transformers and save it with sentence-transformers."""

    def make(
        family: str,
        *,
        prompts: dict[str, str] | None = None,
        cap: int | None = None,
        pooling: Any = "relu",
        **config: Any,
    ) -> tuple[SparseEncoder, Path]:
        masked = family in MASKED
        if family == "mpnet":  # whatever its configuration says, its positions begin behind a padding token 1
            config["max_position_embeddings"] = 66
        torch.manual_seed(0)
        model = (AutoModelForMaskedLM if masked else AutoModelForCausalLM).from_config(config_of(family, **config))
        for parameter in model.parameters():
            parameter.data.add_(0.1 * torch.randn_like(parameter))
        plain, saved = tmp_path / "plain", tmp_path / "st"
        model.save_pretrained(plain)
        tokenizer_of("wordpiece" if masked else "metaspace").save_pretrained(plain)
        if masked:
            first = Transformer(str(plain), transformer_task="fill-mask")
        else:
            first = Transformer(
                str(plain),
                transformer_task="text-generation",
                module_output_name="token_embeddings",
                modality_config={"text": {"method": "forward", "method_output_name": "logits"}},
                processing_kwargs={"text": {"logits_to_keep": 0}},
            )
        encoder = SparseEncoder(
            modules=[first, SpladePooling("max", pooling)], device="cpu", max_active_dims=cap, prompts=prompts
        )
        encoder.save(str(saved))
        return encoder, saved

    return make


def agree(plain: SparseEncoder, encoder: Encoder) -> None:
    terms = encoder.tokenizer.get_vocab_size()  # rows of a padded vocabulary are no terms
    for kind, encode in (("query", plain.encode_query), ("document", plain.encode_document)):
        expected = encode(TEXTS, convert_to_tensor=True).to_dense().numpy()[:, :terms]
        rows = encoder.encode(TEXTS, kind=kind).sparse
        assert rows is not None and expected.any()
        assert np.abs(rows.toarray()[:, :terms] - expected).max() <= BOUND


@pytest.mark.parametrize("family", [*MASKED, "llama", "qwen3"])
def test_agrees_there_and_back(
    family: str, sparse_encoder: Callable[..., tuple[SparseEncoder, Path]], tmp_path: Path
) -> None:
    plain, folder = sparse_encoder(family, prompts={"query": "query: ", "document": "passage: "})
    encoder = Encoder.load(folder, dtype="float32")
    assert encoder.outputs == ("sparse",) and encoder.dimension == 0
    assert encoder.spec.attention is (Attention.BIDIRECTIONAL if family in MASKED else Attention.CAUSAL)
    agree(plain, encoder)
    assert [m for m in verify_encoder(encoder) if not m.passed] == []
    encoder.save(tmp_path / "saved")
    agree(plain, Encoder.load(tmp_path / "saved", dtype="float32"))
    agree(SparseEncoder(str(tmp_path / "saved"), device="cpu"), encoder)
    (tmp_path / "saved/decant.json").unlink()
    again = Encoder.load(tmp_path / "saved", dtype="float32")
    assert again.spec.sparse == encoder.spec.sparse and again.spec.prompts == encoder.spec.prompts
    agree(plain, again)


def test_options_are_kept(
    sparse_encoder: Callable[..., tuple[SparseEncoder, Path]],
    tokenizer_of: Callable[[str], PreTrainedTokenizerFast],
    tmp_path: Path,
) -> None:
    vocabulary = len(tokenizer_of("wordpiece"))  # else sentence-transformers spends its cap on rows that are no terms
    plain, folder = sparse_encoder("bert", cap=9, pooling="log1p_relu", vocab_size=vocabulary)
    encoder = Encoder.load(folder, dtype="float32")
    assert encoder.spec.sparse == SparseSpec(top_k=9, special_tokens=True, double_log=True)
    agree(plain, encoder)
    encoder.save(tmp_path / "saved")
    written = json.loads((tmp_path / "saved/config_sentence_transformers.json").read_text())
    assert (written["max_active_dims"], written["model_type"]) == (9, "SparseEncoder")
    agree(SparseEncoder(str(tmp_path / "saved"), device="cpu"), encoder)


def test_older_layout_loads(sparse_encoder: Callable[..., tuple[SparseEncoder, Path]]) -> None:
    plain, folder = sparse_encoder("bert")
    legacy = "sentence_transformers.sparse_encoder.models"
    modules = [("", f"{legacy}.MLMTransformer"), ("1_SpladePooling", f"{legacy}.SpladePooling")]
    listed = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(modules)]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 64, "do_lower_case": false}')
    encoder = Encoder.load(folder, dtype="float32")
    assert encoder.max_tokens == 64
    agree(plain, encoder)


def test_dense_beside_sparse_loads_in_sentence_transformers(
    sparse_encoder: Callable[..., tuple[SparseEncoder, Path]], tmp_path: Path
) -> None:
    from dataclasses import replace

    from sentence_transformers import SentenceTransformer

    _, folder = sparse_encoder("llama")
    spec = Encoder.load(folder, dtype="float32").spec
    encoder = Encoder.load(folder, dtype="float32", spec=replace(spec, pooling=Pooling.MEAN, normalize=True))
    assert encoder.outputs == ("dense", "sparse")
    encoder.save(tmp_path / "saved")
    dense = SentenceTransformer(str(tmp_path / "saved"), device="cpu").encode(TEXTS)
    assert np.abs(dense - encoder.encode(TEXTS).dense).max() <= BOUND
    both = Encoder.load(tmp_path / "saved", dtype="float32").encode(TEXTS, outputs=["dense", "sparse"])
    assert both.sparse is not None
    assert np.abs((both.sparse - encoder.encode(TEXTS, outputs=["sparse"]).sparse).toarray()).max() <= BOUND


def _edit(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def test_what_would_be_read_otherwise_is_refused(sparse_encoder: Callable[..., tuple[SparseEncoder, Path]]) -> None:
    _, folder = sparse_encoder("llama")
    _edit(folder / "sentence_bert_config.json", processing_kwargs={})
    with pytest.raises(UnsupportedModelError, match="transformer_task=text-generation and logits_to_keep=None"):
        Encoder.load(folder)
    _edit(folder / "sentence_bert_config.json", processing_kwargs={"text": {"logits_to_keep": 0}})
    _edit(folder / "1_SpladePooling/config.json", pooling_strategy="sum")
    with pytest.raises(UnsupportedModelError, match="pools by sum over relu: Decant honours max"):
        Encoder.load(folder)
    listed = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([listed[0], listed[1], {**listed[1], "type": "a.b.Other", "idx": 2}])
    )
    with pytest.raises(UnsupportedModelError, match="'SpladePooling', 'Other'"):
        Encoder.load(folder)
    router = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.router.Router"}
    (folder / "modules.json").write_text(json.dumps([router]))
    with pytest.raises(UnsupportedModelError, match="reads queries by a table of weights without a model"):
        Encoder.load(folder)
