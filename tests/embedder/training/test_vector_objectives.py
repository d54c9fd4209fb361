import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers.sparse_encoder.losses import FlopsLoss
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parent))
from models import context, gradients, make_base

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.training.data import TrainingPair
from decant.embedder.training.objectives.contrastive import Contrastive
from decant.embedder.training.objectives.distil import Distil
from decant.embedder.training.objectives.pair_batches import PairBatches, candidates
from decant.embedder.training.objectives.ranking import over_widths, ranking_loss
from decant.embedder.training.objectives.simcse import Simcse
from decant.embedder.training.objectives.splade import Splade, flops, flops_factor
from decant.embedder.training.settings import RecipeError
from decant.embedder.training.training_recipe import (
    ContrastiveSettings,
    DistilSettings,
    SimcseSettings,
    SpladeSettings,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


# Contrast


def loops(scores, pairs, negatives, in_batch):
    """InfoNCE written as loops over texts."""
    passages = [p.positive for p in pairs] + [n for some in negatives for n in some]
    owner = list(range(len(pairs))) + [i for i, some in enumerate(negatives) for _ in some]
    losses = []
    for i, pair in enumerate(pairs):
        answers = {p.positive for p in pairs if p.query == pair.query}
        rivals = [
            scores[i, j]
            for j, text in enumerate(passages)
            if j != i
            and (in_batch or owner[j] == i)
            and text != pair.positive
            and not (j < len(pairs) and text in answers and pairs[j].query == pair.query)
        ]
        losses.append(torch.logsumexp(torch.stack([scores[i, i], *rivals]), 0) - scores[i, i])
    return torch.stack(losses).mean()


@pytest.mark.parametrize("in_batch", [True, False])
def test_ranking_loss_leaves_out_other_right_answers(in_batch):
    pairs = [TrainingPair("a", "one"), TrainingPair("b", "two"), TrainingPair("a", "three"), TrainingPair("c", "one")]
    negatives = [["x", "two"], ["one"], ["three"], ["y"]]
    known = candidates(pairs, negatives, CPU)
    scores = torch.randn(4, 9, generator=torch.Generator().manual_seed(0))
    expected = loops(scores, pairs, negatives, in_batch)
    torch.testing.assert_close(ranking_loss(scores, known, in_batch=in_batch), expected)


def test_over_widths_is_the_mean_over_unit_prefixes():
    vectors = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    found = over_widths(vectors, [8, 4, 2], lambda unit: (unit[:3] * unit[3:]).sum())
    expected = [F.cosine_similarity(vectors[:3, :d], vectors[3:, :d]).sum() for d in (8, 4, 2)]
    torch.testing.assert_close(found, torch.stack(expected).mean())


@pytest.mark.parametrize("encoder", [{}, {"latent": {"latents": 4, "heads": 2, "head_dim": 8}}, {"pooling": "last"}])
def test_chunks_change_nothing_but_memory(base, encoder):
    given = context(base, encoder, with_head=False, dims=(32, 16))
    whole, cut = (
        Contrastive(ContrastiveSettings(batch_pairs=12, negatives=1, chunk_tokens=tokens), given, ["pairs"])
        for tokens in (100_000, 60)
    )
    assert len(whole._batches(0).parts) == 1 and len(cut._batches(0).parts) > 3
    expected = whole(0, 0.5).loss.item()
    wanted = gradients(given.trainee)
    assert cut(0, 0.5).loss.item() == pytest.approx(expected, abs=1e-6)
    found = gradients(given.trainee)
    assert found.keys() == wanted.keys() and len(found) > 10
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_contrastive_loss_is_that_of_the_encoder_s_own_vectors(base):
    prompts = {"prompts": {"query": "find {instruction} ", "document": ""}, "instruction": "fish"}
    given = context(base, {**prompts, "include_prompt": False}, with_head=False)
    objective = Contrastive(ContrastiveSettings(batch_pairs=8, negatives=1, temperature=0.1), given, ["pairs"])
    batch = objective._batches(2)
    encoder = given.trainee.encoder
    queries = torch.from_numpy(encoder.encode(batch.query_texts, kind="query").dense)
    passages = torch.from_numpy(encoder.encode(batch.passage_texts).dense)
    pairs = [TrainingPair(q, p) for q, p in zip(batch.query_texts, batch.passage_texts, strict=False)]
    expected = loops(queries @ passages.T / 0.1, pairs, [[n] for n in batch.passage_texts[8:]], True)
    assert objective(2, 1.0).loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_without_in_batch_negatives_there_must_be_mined_ones(base):
    given = context(base, with_head=False)
    with pytest.raises(RecipeError, match=r"objectives\[0\].negatives: .*in_batch_negatives"):
        Contrastive(ContrastiveSettings(in_batch_negatives=False), given, ["pairs"])
    with pytest.raises(RecipeError, match=r"objectives\[0\].negatives: .*in_batch_negatives"):
        Splade(SpladeSettings(in_batch_negatives=False), context(base, {"sparse": {}}), ["pairs"])


def test_a_blended_batch_holds_every_data_set(base):
    given = context(base, with_head=False)
    pairs = given.pairs["pairs"]
    sets = {"one": pairs, "two": pairs}
    from dataclasses import replace

    given = replace(given, pairs=sets)
    batch = PairBatches(ContrastiveSettings(batch_pairs=20, blended=True, negatives=1), given, ["one", "two"])(0)
    assert len(batch.query_texts) == 20 and len(batch.passage_texts) == 40
    assert len(set(batch.query_texts)) < 20  # the same pairs stand in both sets


def test_simcse_tells_texts_apart_by_two_dropout_masks(base):
    given = context(base, with_head=False)
    given.trainee.train()
    simcse = Simcse(SimcseSettings(batch_texts=6, max_tokens=12, dropout=0.5), given, ["text"])
    seen = []
    original = simcse._loss
    simcse._loss = lambda unit: seen.append(unit.detach().clone()) or original(unit)
    loss = simcse(0, 1.0).loss.item()
    first, second = seen[0].chunk(2)
    assert (first - second).abs().max() > 1e-3
    scores = first @ second.T / 0.05
    expected = torch.stack([torch.logsumexp(scores[i], 0) - scores[i, i] for i in range(6)]).mean()
    assert loss == pytest.approx(expected.item(), abs=1e-5)
    assert simcse(0, 1.0).loss.item() == loss
    assert simcse(1, 1.0).loss.item() != loss


def test_a_student_that_is_its_teacher_has_nothing_to_learn(base, tmp_path):
    given = context(base, with_head=False)
    given.trainee.encoder.save(tmp_path / "teacher")
    same = Distil(DistilSettings(teacher=str(tmp_path / "teacher"), batch_pairs=6), given, ["pairs"])
    assert same(0, 1.0).loss.item() == pytest.approx(0, abs=1e-5)
    with torch.no_grad():
        given.trainee.model.layers[0].mlp.down_proj.weight.add_(0.3)
    batch = same._batches(0)
    ours = given.trainee.encoder.encode([*batch.query_texts, *batch.passage_texts]).dense
    theirs = same._embed(batch.texts, batch.kinds).numpy()
    distance = 1 - (ours * theirs).sum(1)
    probabilities = []
    for vectors in (theirs, ours):
        scores = torch.from_numpy(vectors[:6] @ vectors[6:].T) / 0.05
        probabilities.append((scores.softmax(1), scores.T.softmax(1)))
    divergence = [(t * (t / o).log()).sum(1).mean() for t, o in zip(*probabilities, strict=True)]
    expected = distance.mean() + ((ours - theirs) ** 2).sum(1).mean() + float(sum(divergence)) / 2
    assert same(0, 1.0).loss.item() == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(RecipeError, match="no folder at nowhere"):
        Distil(DistilSettings(teacher="nowhere"), given, ["pairs"])


def test_a_teacher_gets_its_own_prompts_and_may_be_wider(base, tmp_path):
    prompts = {"query": "fish: ", "document": "bread: "}
    wide = make_base(tmp_path, hidden_size=64)
    teacher = Encoder.load(wide, dtype="float32", spec=EncoderSpec(prompts=prompts))
    teacher.save(tmp_path / "teacher")
    given = context(base, with_head=False)
    settings = DistilSettings(teacher=str(tmp_path / "teacher"), batch_pairs=6, negatives=1, chunk_tokens=60)
    objective = Distil(settings, given, ["pairs"])
    batch = objective._batches(0)
    assert len(batch.parts) > 1
    wanted = np.concatenate(
        [teacher.encode(batch.query_texts, kind="query").dense, teacher.encode(batch.passage_texts).dense]
    )
    np.testing.assert_allclose(objective._embed(batch.texts, batch.kinds).numpy(), wanted, atol=1e-5)
    layer = given.trainee.projections["0"]
    assert layer.weight.shape == (64, 32)
    first = objective(0, 1.0).loss.item()
    assert layer.weight.grad.abs().max() > 1e-4
    optimizer = torch.optim.AdamW(given.trainee.parameters(), lr=3e-3)
    for _ in range(30):
        optimizer.zero_grad()
        objective(0, 1.0)
        optimizer.step()
    assert objective(0, 1.0).loss.item() < 0.7 * first
    given.trainee.save(tmp_path / "student")
    assert Encoder.load(tmp_path / "student").dimension == 32


def test_queries_get_the_examples_the_encoder_retrieves(base, tmp_path):
    """RARe's training: each query behind the nearest other ones of the index, passages as they are."""
    file = tmp_path / "examples.jsonl"
    pairs = context(base, with_head=False).pairs["pairs"].pairs
    file.write_text("".join(json.dumps({"query": p.query, "positive": p.positive}) + "\n" for p in pairs[:20]))
    encoder = {
        "prompts": {"query": "{examples}find ", "document": ""},
        "example": "{query} is {passage} ",
        "retrieved_examples": {"count": 2},
        "max_tokens": 128,
    }
    given = context(base, encoder, with_head=False, examples=file)
    batches = PairBatches(ContrastiveSettings(batch_pairs=8, query_tokens=120), given, ["pairs"])
    batch = batches(0)
    trainee = given.trainee
    for text, part_rows in zip(batch.query_texts, _rows_of(batch), strict=False):
        expected = trainee.encoder.tokenize([text], "query").ids[0].tolist()
        assert part_rows == expected
        near = trainee.encoder.example_index.for_query(text)
        assert near and text not in [query for query, _ in near]
    plain = trainee.encoder.text_tokenizer(batch.passage_texts[:1]).ids[0].tolist()
    assert _rows_of(batch)[8] == plain


def _rows_of(batch):
    """Token ids of a batch's texts, in the order of `batch.texts`."""
    found = {}
    for part in batch.parts:
        rows = part.texts.input_ids.split(part.texts.lengths)
        for place, row in zip(part.rows.tolist(), part.texts.restore.tolist(), strict=True):
            found[place] = rows[row].tolist()
    return [found[place] for place in range(len(found))]


# Sparse


def test_splade_is_contrast_plus_growing_flops(base):
    given = context(base, {"sparse": {}})
    settings = SpladeSettings(batch_pairs=6, query_flops=0.3, passage_flops=0.7, flops_warmup_steps=10)
    objective = Splade(settings, given, ["pairs"])
    batch = objective._batches(5)
    encoder = given.trainee.encoder
    queries = torch.from_numpy(encoder.encode(batch.query_texts, kind="query", outputs=("sparse",)).sparse.toarray())
    passages = torch.from_numpy(encoder.encode(batch.passage_texts, outputs=("sparse",)).sparse.toarray())
    pairs = [TrainingPair(q, p) for q, p in zip(batch.query_texts, batch.passage_texts, strict=True)]
    expected = loops(queries @ passages.T, pairs, [[] for _ in pairs], True)
    regularizer = FlopsLoss(model=None).compute_loss_from_embeddings
    expected = expected + 0.25 * (0.3 * regularizer(queries) + 0.7 * regularizer(passages))
    assert objective(5, 1.0).loss.item() == pytest.approx(expected.item(), rel=1e-4)
    torch.testing.assert_close(flops(passages), regularizer(passages))
    assert [flops_factor(step, 10) for step in (0, 5, 10, 99)] == [0, 0.25, 1, 1]
    assert gradients(given.trainee)["model.embed_tokens.weight"].abs().sum() > 0


def test_splade_needs_a_sparse_head(base):
    with pytest.raises(RecipeError, match="set `sparse: {}` under encoder"):
        Splade(SpladeSettings(), context(base), ["pairs"])
