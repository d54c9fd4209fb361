"""The verifier: a pair is read alone, pieces hold what they are cut around, a trained one is what is loaded again."""

from __future__ import annotations

import csv
import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from decant.embedder import Encoder, EncoderSpec
from decant.index import Store
from decant.index.testing import indexed
from decant.rag import Answerer, AnswerRules, GeneratorError
from decant.rag.context_cache import ContextCache
from decant.rag.reader.adapter import TrainedReader, weights_digest
from decant.rag.reader.confidence import Calibration, Candidate, known
from decant.rag.reader.decode import Span, best_spans
from decant.rag.reader.generator import VERIFIER, ReaderGenerator
from decant.rag.reader.model import ReaderConfig, SpanReader
from decant.rag.states import Tokens, encode_states, read_tokens
from decant.rag.training import rag_recipe, run_rag_recipe
from decant.rag.verifier.adapter import Verifier, save_calibration, save_verifier
from decant.rag.verifier.model import MARKS, Marks, Pair, SpanHead, pair_around, piece_around, read_pairs
from decant.rag.verifier.recipe import VerifierRecipe
from decant.rag.verifier.training import Trainer

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model, dtype="float32", spec=EncoderSpec(max_tokens=256), verify=False)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions whose answer is the word behind `is`."""
    rows = []
    words = ["red", "green", "blue", "white", "black"]
    for i in range(60):
        facts = [(f"{chr(65 + i % 26)}{j}", words[(i + j) % 5]) for j in range(3)]
        passage = " ".join(f"The {thing} is {word}." for thing, word in facts)
        thing, word = facts[i % 3]
        start = passage.index(f"The {thing} is {word}") + len(f"The {thing} is ")
        rows.append(
            {"query": f"What is the {thing}?", "positive": passage, "title": f"t{i % 6}", "answers": [word],
             "answer_start": start}
        )  # fmt: skip
    folder = tmp_path_factory.mktemp("data")
    (folder / "pairs").mkdir()
    with gzip.open(folder / "pairs" / "qa.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder


@pytest.fixture
def recipe(encoder: Encoder) -> VerifierRecipe:
    return VerifierRecipe(
        model=str(encoder.path), questions="pairs/qa.jsonl.gz", dev_articles=1, rank=8, alpha=16, tokens=48, batch=12,
        steps=30, warmup_steps=3, checkpoint_steps=10, learning_rate=1e-2, swapped=0.0,
        calibration_questions=0,
    )  # fmt: skip


def pair(question: int, piece: int, seed: int) -> Pair:
    rng = np.random.default_rng(seed)
    return Pair(*(rng.integers(5, 200, size).astype(np.int32) for size in (question, piece)))


@pytest.mark.parametrize("length", [1, 5, 16, 17, 60])
@pytest.mark.parametrize("room", [1, 5, 16])
def test_a_piece_holds_the_beginning_of_what_it_is_cut_around(length, room):
    for first in range(length):
        for last in range(first, min(length, first + 20)):
            piece = piece_around(length, first, last, room)
            assert 0 <= piece.start <= first < piece.stop <= length
            assert piece.stop - piece.start == min(room, length - piece.start)
            if last - first < room:
                assert last < piece.stop
            if length >= room and last - first < room:
                assert piece.stop - piece.start == room


def test_a_long_question_leaves_room_for_the_passage():
    passage = np.arange(100, dtype=np.int32)
    for size in (1, 10, 200):
        made, start = pair_around(np.zeros(size, np.int32), passage, 70, 72, 32)
        assert len(made.question) + len(made.piece) + MARKS <= 32
        assert {70, 71, 72} <= set(made.piece.tolist())
        assert passage[start] == made.piece[0]


def test_what_stands_beside_a_pair_changes_nothing(encoder):
    torch.manual_seed(0)
    head, marks = SpanHead(encoder.backbone.hidden_size).eval(), Marks.of(encoder)
    pairs = [pair(3, 9, 1), pair(1, 30, 2), pair(11, 1, 3), pair(3, 9, 4)]

    def read(some: list[Pair]) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.inference_mode():
            return read_pairs(
                lambda t, layout: encoder.backbone(t.input_ids, layout), head, some, marks, encoder.backbone.device
            )

    together = read(pairs)
    for i, own in enumerate(pairs):
        alone = read([own])
        for both, single in zip(together, alone, strict=True):
            torch.testing.assert_close(both[i, : len(own.piece)], single[0, :-1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(both[i, -1], single[0, -1], atol=1e-5, rtol=1e-5)
            assert torch.isinf(both[i, len(own.piece) : -1]).all()


def test_question_and_passage_see_each_other(encoder):
    torch.manual_seed(0)
    head, marks = SpanHead(encoder.backbone.hidden_size).eval(), Marks.of(encoder)
    own = pair(4, 12, 1)
    others = [replace(own, question=own.question[::-1].copy()), replace(own, piece=own.piece[::-1].copy())]
    with torch.inference_mode():
        starts, _ = read_pairs(
            lambda t, layout: encoder.backbone(t.input_ids, layout), head, [own, *others], marks, torch.device("cpu")
        )
    assert not torch.allclose(starts[0], starts[1])
    assert not torch.allclose(starts[0, -1], starts[2, -1])


def test_pieces_hold_their_answers_and_others_hold_none(encoder, data, tmp_path, recipe):
    mixed = replace(recipe, strangers=0.25, cut=0.25, swapped=0.25)
    pieces = Trainer(data, tmp_path, mixed).pieces
    kinds = {True: 0, False: 0}
    for step in range(12):
        for piece in pieces[step]:
            kinds[piece.span is not None] += 1
            assert len(piece.pair.row(Marks(0, 1))) <= mixed.tokens
            assert len(piece.pair.piece) == len(piece.offsets)
            if piece.span:
                assert piece.text(*piece.span).strip() in ("red", "green", "blue", "white", "black")
    assert min(kinds.values()) > 20
    assert [p.pair.piece.tolist() for p in pieces[3]] == [p.pair.piece.tolist() for p in pieces[3]]
    for row in range(20):
        cut = pieces._cut(row)
        assert cut is None or pieces.questions.answers[row] not in "".join(
            cut.passage[start:end] for start, end in cut.offsets.tolist()
        )


def test_training_lowers_the_loss_goes_on_where_it_stopped_and_loads_as_it_was(encoder, data, tmp_path, recipe):
    whole = Trainer(data, tmp_path / "a", recipe)
    whole.run()
    with (tmp_path / "a" / "loss.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-5:]) < 0.75 * losses[0]
    assert json.loads((tmp_path / "a" / "dev.json").read_text())["right_piece"]["questions"] > 5
    broken = Trainer(data, tmp_path / "b", recipe)

    def stop(step: int, go_on=broken.loss):
        if step == 17:
            raise KeyboardInterrupt
        return go_on(step)

    broken.loss = stop
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = Trainer(data, tmp_path / "b", recipe)
    again.run()
    for one, other in zip(whole.trained.parameters(), again.trained.parameters(), strict=True):
        assert torch.equal(one, other)
    verifier = Verifier.load(tmp_path / "a" / "adapter", encoder)
    piece = next(piece for piece in whole.pieces[0] if piece.span)
    tokens = Tokens(piece.pair.piece, piece.offsets)
    [found] = verifier.spans(Tokens(piece.pair.question, np.zeros((0, 2), np.int32)), [(tokens, *piece.span)])
    with torch.inference_mode():
        [trained] = best_spans(*whole.logits([piece]))
    assert (found.first, found.last) == (trained.first, trained.last)
    # Training multiplies in bfloat16, and what is saved is float16.
    assert found.score == pytest.approx(trained.score, rel=0.05, abs=0.2)


@pytest.fixture
def folder(encoder: Encoder, data: Path, tmp_path: Path, recipe: VerifierRecipe) -> Path:
    """A verifier that was never trained, but whose adapters do something."""
    trainer = Trainer(data, tmp_path / "made", recipe)
    for name, weight in trainer.adapters.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    save_verifier(trainer.encoder, trainer.adapters, trainer.head, recipe.tokens, tmp_path / "verifier")
    return tmp_path / "verifier"


def test_adapters_take_effect_and_leave_the_encoder_alone(encoder, folder):
    before = encoder.encode(["copper turns green"]).dense
    verifier = Verifier.load(folder, encoder)
    assert np.array_equal(encoder.encode(["copper turns green"]).dense, before)
    assert not np.allclose(verifier.encoder.encode(["copper turns green"]).dense, before, atol=1e-3)


def test_only_its_own_encoder_is_verified_for(encoder, folder, tmp_path):
    facts = json.loads((folder / "verifier.json").read_text())
    (folder / "verifier.json").write_text(json.dumps(facts | {"encoder_weights": "other"}))
    with pytest.raises(GeneratorError, match="another encoder"):
        Verifier.load(folder, encoder)
    (folder / "verifier.json").write_text(json.dumps(facts | {"format": 9}))
    with pytest.raises(GeneratorError, match="its format is 9"):
        Verifier.load(folder, encoder)
    (folder / "verifier.json").write_text(json.dumps(facts))
    (folder / "head.safetensors").write_bytes(b"no")
    with pytest.raises(GeneratorError, match="holds no verifier"):
        Verifier.load(folder, encoder)
    with pytest.raises(GeneratorError, match="holds no verifier"):
        Verifier.load(tmp_path / "none", encoder)


def test_what_is_known_of_candidates_that_were_read_again():
    def candidate(number: int, first: Span, again: Span | None) -> Candidate:
        from types import SimpleNamespace

        quotes = (SimpleNamespace(score=5.0),)
        return Candidate(SimpleNamespace(number=number, quotes=quotes), 0, 1, first, 5.0, again)

    some = [
        candidate(1, Span(2, 3, 1.0, 0.5), Span(2, 3, 4.0, 0.9)),
        candidate(2, Span(2, 3, 3.0, 0.5), Span(3, 5, -1.0, 0.1)),
        candidate(3, Span(2, 3, 3.0, 0.5), Span(7, 8, -2.0, 0.1)),
    ]
    rows = known(some)
    assert rows.shape == (3, 10)
    assert rows[:, 6].tolist() == [4.0, -1.0, -2.0]
    assert rows[:, 8].tolist() == [5.0, -5.0, -6.0]
    assert rows[:, 9] == pytest.approx([1.0, 0.25, 0.0])
    assert np.array_equal(rows[:, :6], known([replace(c, again=None) for c in some]))


@pytest.mark.parametrize(("threshold", "said"), [(0.0, True), (2.0, False)])
def test_a_reader_with_a_verifier_answers_with_its_words_and_confidence(encoder, folder, tmp_path, threshold, said):
    torch.manual_seed(0)
    config = ReaderConfig(encoder.backbone.hidden_size, encoder.text_tokenizer.vocabulary_size, width=16)
    reader = tmp_path / "reader"
    TrainedReader(SpanReader(config).eval(), Calibration(), weights_digest(encoder)).save(reader)
    weights = (0.0,) * 6 + (1.0, 0.0, 0.0, 0.0, 0.0)
    save_calibration(folder, Calibration(weights, threshold, threshold))
    folder.rename(reader / VERIFIER)
    texts = [f"Copper number {i} turns green in the rain of {1900 + i}. Iron rusts.\n" for i in range(6)]
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        store.replace([indexed(f"d{i}", text, encoder) for i, text in enumerate(texts)])
        writer = ReaderGenerator.load(encoder, ContextCache.of(store, encoder), reader)
        answerer = Answerer(store, encoder, AnswerRules(threshold=-9, floor=-9), generator=writer)
        answer = answerer.ask("What turns green?")
        again = answerer.ask("What turns green?")
    assert answer.grounded == said
    assert answer.confidence is not None and 0 < answer.confidence < 1
    assert (again.text, again.confidence) == (answer.text, answer.confidence)
    if said:
        assert answer.generator == "reader"
        assert answer.text.rsplit(" [", 1)[0] in " ".join(citation.text for citation in answer.citations)


def test_spans_are_in_tokens_of_their_passage(encoder, folder):
    verifier = Verifier.load(folder, encoder)
    passage = " ".join(f"word{i} stands here." for i in range(40))
    [tokens], [asked] = read_tokens(encoder, [passage]), read_tokens(encoder, ["Where does it stand?"], "query")
    assert np.array_equal(encode_states(encoder, [passage])[0].ids, tokens.ids)
    for at in (0, len(tokens) // 2, len(tokens) - 2):
        [span] = verifier.spans(asked, [(tokens, at, at + 1)])
        made, start = pair_around(asked.ids, tokens.ids, at, at + 1, verifier.tokens)
        assert start <= span.first <= span.last < start + len(made.piece)
    several = verifier.spans(asked, [(tokens, at, at) for at in range(0, len(tokens), 7)])
    alone = [verifier.spans(asked, [(tokens, at, at)])[0] for at in range(0, len(tokens), 7)]
    assert [(s.first, s.last) for s in several] == [(s.first, s.last) for s in alone]
    assert [s.score for s in several] == pytest.approx([s.score for s in alone], abs=1e-4)


def test_the_recipe_trains_a_verifier(data, encoder, tmp_path):
    recipe = rag_recipe(
        RECIPES / "xc-verifier.yaml",
        [f"model={encoder.path}", "questions=pairs/qa.jsonl.gz", "dev_articles=1", "steps=2", "batch=8", "rank=2",
         "calibration_questions=0", "checkpoint_steps=2"],
    )  # fmt: skip
    assert isinstance(recipe, VerifierRecipe)
    run_rag_recipe(recipe, data, tmp_path / "run")
    assert Verifier.load(tmp_path / "run" / "adapter", encoder).calibration == Calibration()
