"""A transform in front of the tied table: its rows, its saved form, and what does not fit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from decant.embedder import Encoder, EncoderSpec, ModelError
from decant.embedder.formats.folder import LM_HEAD_FOLDER
from decant.embedder.sparse import explain
from decant.embedder.spec import Attention, SparseSpec
from decant.embedder.term_transform import TermTransform
from decant.embedder.training.trainee import Trainee, load_lm_head
from decant.embedder.verify import verify_encoder

TEXTS = ["Rivers carry water from the mountains to the sea.", "short text", "a"]
SPEC = EncoderSpec(attention=Attention.CAUSAL, max_tokens=64, sparse=SparseSpec())


@pytest.fixture
def folder(new_model: Callable[..., Path]) -> Path:
    """A tied decoder with such a head."""
    made = new_model("llama", "byte", lm=True, tie_word_embeddings=True)
    SPEC.save(made)
    table = AutoModelForCausalLM.from_pretrained(made).get_input_embeddings().weight
    terms, width = table.shape
    transform = TermTransform.rounded(3 * torch.randn(width, width), torch.randn(width))
    transform.save(made / LM_HEAD_FOLDER, torch.randn(terms) - 1)
    return made


@torch.no_grad()
def plainly(folder: Path, encoder: Encoder, text: str) -> np.ndarray:
    """The formula, from the folder's tensors by the causal language model's states."""
    state = load_file(folder / LM_HEAD_FOLDER / "model.safetensors")
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    ids = encoder.tokenizer.encode(text).ids
    hidden = model.model(torch.tensor([ids])).last_hidden_state[0]
    weight = state["transform.codes"].float() * state["transform.steps"][:, None]
    queries = hidden @ weight.T + state["transform.bias"].float()
    logits = queries @ model.get_input_embeddings().weight.T + state["lm_head.bias"].float()
    rows = logits[[i for i, token in enumerate(ids) if token > 3]].amax(0).relu().log1p()
    rows[:4] = 0
    rows[encoder.tokenizer.get_vocab_size() :] = 0
    return rows.numpy()


def test_rows_are_those_of_the_formula(folder: Path) -> None:
    encoder = Encoder.load(folder, dtype="float32")
    rows = encoder.encode(TEXTS, outputs=["sparse"]).sparse
    assert rows is not None and 0 < rows.nnz < rows.shape[0] * 320
    for row, text in zip(rows.toarray(), TEXTS, strict=True):
        assert np.abs(row - plainly(folder, encoder, text)).max() <= 1e-5


def test_a_saved_copy_has_it_and_every_invariant_holds(folder: Path, tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        encoder = Encoder.load(folder, dtype=dtype)
        assert [m.name for m in verify_encoder(encoder) if not m.passed] == []
        encoder.save(tmp_path / dtype)
    kept = load_file(tmp_path / "float32" / LM_HEAD_FOLDER / "model.safetensors")
    for name, tensor in load_file(folder / LM_HEAD_FOLDER / "model.safetensors").items():
        assert torch.equal(tensor, kept[name]), name


def test_rounding_moves_no_weight_by_more_than_half_a_step() -> None:
    weight = torch.randn(5, 7) * torch.tensor([1e-3, 1, 10, 0, 300])[:, None]
    made = TermTransform.rounded(weight, torch.zeros(5))
    assert ((made.weight - weight).abs() <= weight.abs().amax(1, keepdim=True) / 253).all()


@pytest.mark.parametrize("name", ["transform.steps", "lm_head.bias"])
def test_a_head_without_one_of_its_parts_is_refused(folder: Path, name: str) -> None:
    file = folder / LM_HEAD_FOLDER / "model.safetensors"
    save_file({key: part for key, part in load_file(file).items() if key != name}, file)
    with pytest.raises(ModelError, match=r"lacks transform\.steps|does not fit a table"):
        Encoder.load(folder)


def test_a_head_of_another_width_is_refused(folder: Path) -> None:
    TermTransform.rounded(torch.randn(8, 8), torch.randn(8)).save(folder / LM_HEAD_FOLDER, torch.randn(320))
    with pytest.raises(ModelError, match="does not fit a table of 320 tokens"):
        Encoder.load(folder)


def test_the_shipped_head_names_a_texts_words_and_their_kin() -> None:
    rows = Encoder.load().encode(["heart attack treatment", "the river is dry"], outputs=["sparse"]).sparse
    assert rows is not None
    heart, river = ({term for term, _ in terms} for terms in explain(rows, Encoder.load(verify=False).tokenizer, top=8))
    assert {"heart", "attack", "treatment", "cardiac"} <= heart and "river" in river and not heart & river


def test_whether_an_index_holds_its_rows_makes_no_other_encoder() -> None:
    asked = replace(SPEC, sparse=SparseSpec(on_request=True))
    assert asked.identity() == SPEC.identity() != replace(SPEC, sparse=None).identity()


def test_training_reads_tokens_through_the_transform(folder: Path) -> None:
    encoder = Encoder.load(folder, dtype="float32")
    head = load_lm_head(encoder, folder)
    states, targets = torch.randn(5, encoder.backbone.hidden_size), torch.arange(5, 10)
    logits = head.states(states) @ head.weight.T + head.bias
    loss = Trainee(encoder, head).token_loss(states, targets)
    assert torch.allclose(loss, torch.nn.functional.cross_entropy(logits, targets), atol=1e-5)
