import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, BertModel

from decant.embedder import Encoder
from decant.embedder.training.inherit import inherit, ridge, slow_to_fast
from decant.embedder.training.packed_texts import PackedTexts
from decant.embedder.training.pairs import PairSet
from decant.embedder.training.settings import RecipeError
from decant.embedder.training.sources import DataError
from decant.embedder.training.states import hidden_states, text_means
from decant.embedder.training.teacher import TokenTeacher, load_bert
from decant.embedder.training.tokenizer import inherited_tokenizer


@pytest.fixture(scope="module")
def texts(finished_run):
    """Passages of the pairs."""
    pairs = PairSet.load(finished_run.folder / "pairs")
    return PackedTexts.of([pairs.passages[row] for row in range(len(pairs))])


def test_the_tokenizer_is_the_teacher_s_without_what_it_reserves(teacher_folder):
    tokenizer, rows = inherited_tokenizer(teacher_folder)
    theirs = AutoTokenizer.from_pretrained(teacher_folder)
    for text in ("The river flows", "bread, 12 loaves", "x"):
        assert [rows[token] for token in tokenizer(text)["input_ids"]] == theirs(text)["input_ids"]
    assert len(rows) == len(tokenizer) == len(theirs) - 2
    assert not any("unused" in token for token in tokenizer.get_vocab())


def test_a_folder_without_wordpiece_is_refused(tmp_path):
    with pytest.raises(DataError, match="no tokenizer.json with a WordPiece vocabulary"):
        inherited_tokenizer(tmp_path)


@torch.no_grad()
def test_the_student_s_states_are_nearly_the_teacher_s_before_any_training(teacher_folder, texts, recipes):
    _, rows = inherited_tokenizer(teacher_folder)
    teacher = TokenTeacher.load(teacher_folder, rows, "cpu")
    student, axes = inherit(load_bert(teacher_folder), texts, torch.tensor(rows), recipes["inherit"])
    ours, theirs = hidden_states(student, texts), teacher.states(texts)
    fitted = F.cosine_similarity(ours, theirs).mean().item()
    torch.manual_seed(0)
    for parameter in student.parameters():
        parameter.copy_(torch.randn_like(parameter) * parameter.std())
    assert fitted > 0.95 > 0.3 > F.cosine_similarity(hidden_states(student, texts), theirs).mean().item()
    assert torch.allclose(axes @ axes.T, torch.eye(32), atol=1e-5)
    spread = (F.normalize(text_means(theirs, texts)) @ axes.T).square().sum(0)
    assert (spread[:-1] >= spread[1:] - 1e-4).all()


def test_what_has_no_swiglu_is_refused(teacher_folder, texts, recipes):
    bert = load_bert(teacher_folder)
    with pytest.raises(RecipeError, match="intermediate: 65 is more than the teacher's 64"):
        inherit(bert, texts, torch.arange(9), dataclasses.replace(recipes["inherit"], intermediate=65))
    bert.config.hidden_act = "relu"
    with pytest.raises(RecipeError, match="activation is relu"):
        inherit(bert, texts, torch.arange(9), recipes["inherit"])


def test_another_architecture_is_no_teacher():
    from decant.embedder.formats.folder import DEFAULT_MODEL

    with pytest.raises(DataError, match="holds a llama: the teacher has to be a BERT"):
        load_bert(DEFAULT_MODEL)


def test_the_teacher_s_states_are_transformers_own(teacher_folder, texts):
    _, rows = inherited_tokenizer(teacher_folder)
    found = TokenTeacher(Encoder.load(teacher_folder, dtype="float32", verify=False).backbone, torch.tensor(rows))
    plain = BertModel.from_pretrained(teacher_folder).eval()
    first = texts.input_ids[: texts.lengths[0]]
    with torch.no_grad():
        expected = plain(input_ids=torch.tensor(rows)[first][None]).last_hidden_state[0]
    torch.testing.assert_close(found.states(texts)[: texts.lengths[0]], expected, atol=1e-5, rtol=0)


def test_ridge_finds_an_affine_map():
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.normal(3, 1, size=(20_000, 5)).astype(np.float32))
    weight, bias = torch.from_numpy(rng.normal(size=(4, 5)).astype(np.float32)), torch.arange(4.0)
    found = ridge(inputs, inputs @ weight.T + bias, 1e-8)
    torch.testing.assert_close(found[0], weight, atol=1e-4, rtol=0)
    torch.testing.assert_close(found[1], bias, atol=1e-3, rtol=0)


def test_new_coordinates_keep_products_and_put_the_largest_into_the_slow_pairs():
    torch.manual_seed(0)
    query, key, states = torch.randn(8, 20), torch.randn(8, 20), torch.randn(500, 20)
    root = torch.linalg.cholesky((states.T @ states / 500).double())
    for_queries, for_keys = slow_to_fast(query, key, root)
    torch.testing.assert_close(for_queries.T @ for_keys, torch.eye(8), atol=1e-4, rtol=0)
    sizes = (states @ (for_keys @ key).T).square().mean(0)
    pairs = sizes[:4] + sizes[4:]
    assert (pairs[1:] > pairs[:-1]).all()
