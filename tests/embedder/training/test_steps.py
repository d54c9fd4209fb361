import dataclasses
import json

import numpy as np
import pytest
import torch

from decant.embedder import Encoder
from decant.embedder.training.batches import pack
from decant.embedder.training.contrastive import temper
from decant.embedder.training.decoder import build_decoder, mean_vectors, next_token_loss
from decant.embedder.training.export import export_encoder
from decant.embedder.training.pairs import PairSet
from decant.embedder.training.ragged import Ragged
from decant.embedder.training.recipe import ExportRecipe
from decant.embedder.training.run import Schedule, StepResult, train
from decant.embedder.training.settings import RecipeError
from decant.embedder.training.sources import DataError
from decant.embedder.training.steps import Run
from decant.embedder.training.token_table import TableEncoder, TokenTable, folded_rows

ROWS = Ragged.of([[1, 20, 30, 40], [1, 50], [1, 60, 61, 62, 63, 64], [1, 20, 30, 41]])


@pytest.fixture
def decoder(finished_run, recipes):
    table = TokenTable.load(finished_run.folder / "token-table" / "table.npz")
    return build_decoder(table.vectors, finished_run._tokenizer(), 1.0, recipes["lm"])


def test_a_finished_step_is_not_done_again(finished_run, recipes):
    assert not any(finished_run.do(recipe) for recipe in recipes.values())


def test_other_settings_are_refused(finished_run, recipes):
    with pytest.raises(RecipeError, match="begun with other settings"):
        finished_run.do(dataclasses.replace(recipes["lm"], steps=5))


def test_a_step_without_its_input_is_refused(data_folder, recipes, tmp_path):
    with pytest.raises(DataError, match="holds no finished token-table step"):
        Run(tmp_path, data_folder).do(recipes["lm"])


def test_no_training_text_holds_test_text(data_folder, finished_run):
    report = json.loads((finished_run.folder / "pairs" / "report.json").read_text())
    assert report["sources"]["ask"] == 60 and report["dropped_for_overlap"]["ask"] == 0


def test_development_pairs_are_never_drawn(finished_run):
    pairs = PairSet.load(finished_run.folder / "pairs")
    from decant.embedder.training.batches import BatchPlan, PairBatches
    from decant.embedder.training.teacher import TeacherVectors

    vectors = TeacherVectors.load(finished_run.folder / "teacher")
    assert not pairs.dev[vectors.rows].any()
    batches = PairBatches(pairs, vectors, np.eye(32, dtype=np.float32), BatchPlan(0, 16, 48, 64, 0.5))
    held = set(pairs.groups[pairs.dev].tolist())
    taught = 0
    for step in range(30):
        batch = batches[step]
        assert not held & set(batch.targets.groups.tolist())
        taught += batch.targets.teacher is not None
    assert 0 < taught < 30


def test_training_lowers_the_loss(finished_run):
    for step in ("token-table", "lm"):
        losses = [float(loss) for _, loss in logged(finished_run.folder / step)]
        assert np.mean(losses[-2:]) < np.mean(losses[:2]), step


class Stop(Exception):
    pass


def logged(folder):
    """(step, loss) of each line of a step's log."""
    return [line.split(",")[:2] for line in (folder / "loss.csv").read_text().splitlines()[1:]]


def test_a_killed_and_continued_run_equals_an_undisturbed_one(tmp_path):
    def run(folder, stop_at=None):
        torch.manual_seed(0)
        module = torch.nn.Linear(3, 1)

        def forward(step):
            if step == stop_at:
                raise Stop
            inputs = torch.from_numpy(np.random.default_rng(step).normal(size=(5, 3)).astype(np.float32))
            return StepResult(module(inputs).square().mean(), 5)

        groups = [{"params": list(module.parameters()), "lr": 0.1}]
        train(module, groups, forward, Schedule(10, 2, 3), folder)
        return module.weight.detach(), logged(folder)

    weight, losses = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "cut", stop_at=8)
    continued, again = run(tmp_path / "cut")
    assert torch.equal(weight, continued)
    assert losses == again and len(losses) == 10


def test_a_continued_step_equals_the_finished_one(data_folder, teacher, recipes, finished_run, tmp_path, monkeypatch):
    run = Run(tmp_path, data_folder, lambda max_tokens: teacher)
    for name in ("tokenizer", "pairs", "teacher", "token-table", "lm"):
        (tmp_path / name).symlink_to(finished_run.folder / name)
    from decant.embedder.training import contrastive

    calls = 0

    def interrupted(*arguments):
        nonlocal calls
        calls += 1
        if calls == 9:
            raise Stop
        return mean_vectors(*arguments)

    monkeypatch.setattr(contrastive, "mean_vectors", interrupted)
    with pytest.raises(Stop):
        run.do(recipes["contrastive"])
    assert run.do(recipes["contrastive"])
    expected, found = finished_run._model("contrastive"), run._model("contrastive")
    for (name, one), other in zip(expected.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_spellings_of_a_word_share_a_row(finished_run):
    tokenizer = finished_run._tokenizer()
    rows = folded_rows(tokenizer)
    strings = [tokenizer.decode([token]) for token in range(len(tokenizer))]
    words = {}
    for row, text in zip(rows, strings, strict=True):
        if text.strip() and "\ufffd" not in text:
            words.setdefault(text.strip().lower(), set()).add(row)
    assert all(len(some) == 1 for some in words.values()) and rows.max() + 1 == len(set(rows)) < len(rows)
    assert len({rows[token] for token in tokenizer.all_special_ids}) == len(tokenizer.all_special_ids)

    vectors = np.random.default_rng(0).normal(size=(len(rows), 8)).astype(np.float32)
    encoder = TableEncoder(vectors, 1.0, rows)
    assert np.array_equal(encoder.vectors(), encoder.vectors()[np.unique(rows, return_index=True)[1]][rows])
    plain = TableEncoder(encoder.vectors(), 1.0)
    texts = pack(ROWS, np.arange(4), 6)
    assert torch.equal(encoder(texts), plain(texts))


@torch.no_grad()
def test_at_the_start_the_transformer_equals_the_token_table(decoder):
    table = TableEncoder(decoder.get_input_embeddings().weight.numpy(), 1.0)
    for name, module in decoder.named_modules():
        if name.endswith(("o_proj", "down_proj")):
            module.weight.zero_()
    texts = pack(ROWS, np.arange(4), 6)
    directions = [torch.nn.functional.normalize(vectors) for vectors in (mean_vectors(decoder, texts), table(texts))]
    torch.testing.assert_close(*directions)


@torch.no_grad()
def test_tempering_goes_from_the_trained_encoder_to_the_table(finished_run):
    table = TokenTable.load(finished_run.folder / "token-table" / "table.npz").vectors
    texts = pack(ROWS, np.arange(4), 6)
    expected = torch.nn.functional.normalize(TableEncoder(table, 1.0)(texts))
    distances = []
    for share in (1.0, 0.5, 0.0):
        model = finished_run._model("contrastive")
        temper(model, table, share)
        distances.append((torch.nn.functional.normalize(mean_vectors(model, texts)) - expected).abs().max().item())
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-6


@torch.no_grad()
def test_packed_vectors_equal_those_of_each_text_alone(finished_run):
    model = finished_run._model("contrastive")
    together = mean_vectors(model, pack(ROWS, np.arange(4), 5))
    alone = torch.cat([mean_vectors(model, pack(ROWS, np.asarray([row]), 5)) for row in range(4)])
    assert (together - alone).abs().max() < 1e-6


@torch.no_grad()
def test_next_token_loss_equals_the_library_s(decoder):
    losses, counts = [], []
    for row in range(4):
        ids = torch.from_numpy(ROWS[row].astype(np.int64))[None]
        reference = type(decoder)(decoder.config)
        reference.load_state_dict(decoder.state_dict())
        reference.set_attn_implementation("eager")
        losses.append(reference(input_ids=ids, labels=ids).loss.item())
        counts.append(ids.shape[1] - 1)
    expected = np.average(losses, weights=counts)
    assert next_token_loss(decoder, pack(ROWS, np.arange(4), 6)).item() == pytest.approx(expected, abs=2e-2)


def test_the_exported_folder_is_an_encoder_that_gives_the_trained_vectors(finished_run, tmp_path):
    model, tokenizer = finished_run._model("contrastive"), finished_run._tokenizer()
    texts = ["The river flows", "bread"]
    rows = Ragged.of(tokenizer(texts)["input_ids"])
    with torch.no_grad():
        expected = torch.nn.functional.normalize(mean_vectors(model, pack(rows, np.arange(2), 64))).numpy()
    export_encoder(model, tokenizer, [32, 16], ExportRecipe(), tmp_path / "model")
    encoder = Encoder.load(tmp_path / "model", dtype="float32")
    assert encoder.spec.dimensions == (16,) and encoder.max_tokens == 64
    np.testing.assert_allclose(encoder.encode(texts).dense, expected, atol=2e-3)
