"""The span reader: nothing leaks from padding, spans are the best there are, a trained one finds answers."""

from __future__ import annotations

import csv
import gzip
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from decant.embedder import Encoder, EncoderSpec
from decant.index import Store
from decant.index.testing import indexed
from decant.rag import NO_ANSWER, Answerer, AnswerError, AnswerRules, GeneratorError
from decant.rag.context_cache import ContextCache
from decant.rag.reader import adapter, training
from decant.rag.reader.adapter import TrainedReader, begin_from, weights_digest
from decant.rag.reader.batch import pad, read
from decant.rag.reader.batches import Asked, Batches, nearest_strangers
from decant.rag.reader.confidence import Calibration
from decant.rag.reader.data import StateFile, read_questions, token_span
from decant.rag.reader.decode import best_spans
from decant.rag.reader.generator import ReaderGenerator
from decant.rag.reader.model import ReaderConfig, SpanReader
from decant.rag.reader.moving import move
from decant.rag.reader.reading import Reading
from decant.rag.reader.recipe import ReaderRecipe
from decant.rag.reader.training import Trainer
from decant.rag.reader.traits import token_traits
from decant.rag.states import States, encode_states

CONFIG = ReaderConfig(hidden=12, vocabulary=50, width=16)


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model, dtype="float32", spec=EncoderSpec(max_tokens=64), verify=False)


@pytest.fixture(scope="module")
def mini() -> Encoder:
    return Encoder.load(verify=False)


@pytest.fixture
def reader() -> SpanReader:
    torch.manual_seed(0)
    made = SpanReader(CONFIG).eval()
    torch.nn.init.normal_(made.doubt.weigh.weight)  # else it is silent until it is trained
    return made


def states(tokens: int, seed: int) -> States:
    rng = np.random.default_rng(seed)
    places = np.arange(tokens, dtype=np.int32)
    ids = rng.integers(0, 50, tokens).astype(np.int32)
    return States(ids, np.stack([places, places + 1], 1), rng.standard_normal((tokens, 12)).astype(np.float16))


def test_what_stands_beside_a_pair_changes_nothing(reader):
    passages, questions = [states(9, 1), states(30, 2), states(1, 3)], [states(4, 4), states(1, 5), states(11, 6)]
    starts, ends = read(reader, pad(passages, questions, [0, 1, 2]))
    for i, (passage, question) in enumerate(zip(passages, questions, strict=True)):
        alone = read(reader, pad([passage], [question], [0]))
        for together, single in zip((starts[i], ends[i]), alone, strict=True):
            torch.testing.assert_close(together[: len(passage)], single[0, :-1], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together[-1], single[0, -1], atol=1e-5, rtol=1e-5)
            assert torch.isinf(together[len(passage) : -1]).all()


def test_one_passage_serves_many_questions(reader):
    passage, questions = states(9, 1), [states(4, 4), states(6, 5)]
    shared = read(reader, pad([passage], questions, [0, 0]))
    apart = read(reader, pad([passage, passage], questions, [0, 1]))
    torch.testing.assert_close(shared[0], apart[0])


@pytest.mark.parametrize("seed", range(5))
def test_the_best_span_is_the_best_of_all(seed):
    torch.manual_seed(seed)
    starts, ends = torch.randn(2, 8), torch.randn(2, 8)
    starts[0, 5:7] = ends[0, 5:7] = -torch.inf
    for row, span in enumerate(best_spans(starts, ends, max_tokens=3)):
        a, b = starts[row].log_softmax(-1), ends[row].log_softmax(-1)
        options = {(i, j): float(a[i] + b[j]) for i in range(7) for j in range(i, min(i + 3, 7))}
        best = max(options, key=lambda pair: options[pair])
        assert (span.first, span.last) == best
        assert span.score == pytest.approx(options[best] - float(a[-1] + b[-1]), abs=1e-4)
        assert span.share == pytest.approx(float(np.exp(options[best])), rel=1e-3)


def test_token_spans():
    offsets = np.array([[0, 3], [4, 9], [9, 10]], np.int32)
    assert token_span(offsets, 4, 9) == (1, 1)
    assert token_span(offsets, 5, 10) == (1, 2)
    assert token_span(offsets, 9, 12) is None
    assert token_span(offsets, 3, 4) is None


def test_tokens_are_folded_by_case_and_space(encoder):
    folded, _ = token_traits(encoder)
    assert torch.equal(folded[folded.long()], folded)
    upper, lower = (encoder.tokenizer.encode(t, add_special_tokens=False).ids[0] for t in ("Z", "z"))
    assert folded[upper] == folded[lower]


RECIPE = ReaderRecipe(
    questions="pairs/qa.jsonl.gz", dev_articles=1, width=32, layers=1, dropout=0.0, batch_tokens=900, steps=25,
    warmup_steps=3, checkpoint_steps=10, learning_rate=5e-3, calibration_questions=0,
)  # fmt: skip


def test_training_lowers_the_loss_and_goes_on_where_it_stopped(encoder, facts, tmp_path):
    whole = Trainer(encoder, facts, tmp_path / "a", RECIPE)
    before = whole.loss(0).loss.item()
    whole.run()
    with (tmp_path / "a" / "loss.csv").open(newline="") as file:
        losses = [float(row["loss"]) for row in csv.DictReader(file)]
    assert np.mean(losses[-5:]) < 0.75 * before
    broken = Trainer(encoder, facts, tmp_path / "b", RECIPE)

    def stop(step: int, go_on=broken.loss):
        if step == 13:
            raise KeyboardInterrupt
        return go_on(step)

    broken.loss = stop
    with pytest.raises(KeyboardInterrupt):
        broken.run()
    again = Trainer(encoder, facts, tmp_path / "b", RECIPE)
    again.run()
    for name, value in whole.reader.state_dict().items():
        assert torch.equal(value, again.reader.state_dict()[name]), name


def test_training_begins_where_another_reader_ended(encoder, facts, tmp_path):
    first = Trainer(encoder, facts, tmp_path / "a", replace(RECIPE, steps=3, width=32))
    first.run()
    again = Trainer(encoder, facts, tmp_path / "b", replace(RECIPE, start=str(tmp_path / "a" / "adapter"), seed=1))
    begun, ended = (dict(t.reader.named_parameters()) for t in (again, first))
    for name, weight in begun.items():
        torch.testing.assert_close(weight, ended[name], atol=1e-3, rtol=1e-3)
    wider = ReaderConfig(encoder.backbone.hidden_size, encoder.text_tokenizer.vocabulary_size, width=16)
    assert "project.weight" in begin_from(SpanReader(wider), tmp_path / "a" / "adapter")
    with pytest.raises(GeneratorError, match="to begin from"):
        begin_from(SpanReader(wider), tmp_path / "nowhere")


def test_a_reader_moved_to_an_encoder_sees_what_it_saw(mini):
    torch.manual_seed(0)
    config = ReaderConfig(mini.backbone.hidden_size, mini.text_tokenizer.vocabulary_size, width=16)
    own, moved = SpanReader(config).eval(), SpanReader(config).eval()
    own.norm.weight.data.uniform_(0.5, 2.0)
    texts = [(f"Metal {i} is {word}, and its number is {i * 7}.", kind) for i in range(40)
             for word, kind in (("red", "document"), ("green", "query"))]  # fmt: skip
    assert move(moved, own, mini, mini, texts) > 0.98
    states = encode_states(mini, ["Metal 3 is green."])[0]
    hidden = torch.from_numpy(states.hidden.astype(np.float32))
    before, after = own.project(own.norm(hidden)), moved.project(moved.norm(hidden))
    assert (before - after).norm() < 0.2 * before.norm()


def test_articles_are_held_out_whole_and_wrong_passages_are_near_ones_of_the_same_article(encoder, facts, tmp_path):
    questions = read_questions(facts / "pairs" / "qa.jsonl.gz", dev_articles=2)
    held_out = set(questions.articles[questions.passage_of[questions.dev]])
    assert held_out.isdisjoint(questions.articles[questions.passage_of[~questions.dev]])
    asked = StateFile.write(tmp_path / "q", encoder, questions.texts, "query")
    passages = StateFile.write(tmp_path / "p", encoder, questions.passages, "document")
    strangers = nearest_strangers(questions, asked, passages, token_traits(encoder)[0])
    lengths = np.full(len(questions.passages), 20)
    swappable = range(0, len(questions.texts), 2)
    batches = Batches(questions, lengths, strangers, swappable, replace(RECIPE, unanswerable=1.0, cut=0.5, swapped=0.5))
    chosen = [asked for step in range(40) for asked in batches[step]]
    kinds = {(a.answers, a.cut, a.swapped) for a in chosen}
    assert kinds == {(True, False, False), (False, False, False), (False, True, False), (False, False, True)}
    for a in chosen:
        assert not questions.dev[a.question]
        assert a.question in swappable or not a.swapped
        assert (questions.passage_of[a.question] == a.passage) == (a.answers or a.cut or a.swapped)
        assert questions.articles[questions.passage_of[a.question]] == questions.articles[a.passage]


def test_a_question_in_its_other_form_has_no_answer(encoder, facts, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "altered", lambda questions, seed: [f"Else {text}" for text in questions.texts])
    trainer = Trainer(encoder, facts, tmp_path / "r", replace(RECIPE, swapped=1.0))
    assert (
        trainer.material.reading(Asked(0, int(trainer.questions.passage_of[0]), answers=False, swapped=True))[1] is None
    )
    assert not any(trainer.questions.dev[list(trainer.material.swapped_at)])
    seen = []
    monkeypatch.setattr(
        training, "pad", lambda passages, asked, owners: seen.extend(asked) or pad(passages, asked, owners)
    )
    trainer.loss(0)
    lengths = {len(states) for states in seen}
    own = {len(trainer.material.asked[i]) for i in range(len(trainer.material.asked))}
    assert lengths & own
    assert max(lengths) > max(own)


def test_a_passage_without_the_sentence_that_answers(mini, facts, tmp_path):
    trainer = Trainer(mini, facts, tmp_path / "r", RECIPE)
    for question in range(10):
        passage = int(trainer.questions.passage_of[question])
        states, none = trainer.material.reading(Asked(question, passage, answers=False, cut=True))
        text = trainer.questions.passages[passage]
        left = "".join(text[start:end] for start, end in states.offsets.tolist())
        assert none is None
        assert trainer.questions.answers[question] not in left
        assert left.count(".") == 2


def test_a_file_without_questions_is_refused(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.write('{"query": "What?"}\n')
    with pytest.raises(AnswerError, match="holds no questions"):
        read_questions(path, dev_articles=1)


def test_saved_and_loaded_it_reads_the_same_and_only_its_own_encoder(encoder, tmp_path):
    config = ReaderConfig(encoder.backbone.hidden_size, encoder.text_tokenizer.vocabulary_size, width=16)
    torch.manual_seed(0)
    trained = TrainedReader(
        SpanReader(config).half().float().eval(), Calibration(tuple(map(float, range(7))), 0.5, 0.75),
        weights_digest(encoder),
    )  # fmt: skip
    trained.save(tmp_path / "r")
    again = TrainedReader.load(tmp_path / "r", encoder)
    assert again.calibration == trained.calibration
    for name, value in trained.reader.state_dict().items():
        assert torch.equal(value, again.reader.state_dict()[name])
    replace(trained, weights="other").save(tmp_path / "other")
    with pytest.raises(GeneratorError, match="another encoder"):
        TrainedReader.load(tmp_path / "other", encoder)
    with pytest.raises(GeneratorError, match="holds no reader"):
        TrainedReader.load(tmp_path / "none", encoder)


def test_the_one_that_ships_is_for_its_own_encoder(encoder, mini, tmp_path, monkeypatch):
    shipped = TrainedReader.shipped(mini)
    assert shipped is not None and shipped.weights == weights_digest(mini)
    assert TrainedReader.shipped(encoder) is None
    replace(shipped, weights="other").save(tmp_path)
    monkeypatch.setattr(adapter, "SHIPPED", tmp_path)
    assert TrainedReader.shipped(mini) is None


def test_a_reader_of_another_format_is_named_and_left_alone(encoder, tmp_path):
    (tmp_path / "reader.json").write_text('{"format": 1}')
    with pytest.raises(GeneratorError, match="its format is 1"):
        TrainedReader.load(tmp_path, encoder)


@pytest.mark.parametrize(
    ("threshold", "sure", "generator"), [(0.0, 0.0, "reader"), (0.0, 2.0, "evidence"), (2.0, 2.0, "reader")]
)
def test_in_an_answerer_it_cites_what_it_points_at(encoder, tmp_path, threshold, sure, generator):
    config = ReaderConfig(encoder.backbone.hidden_size, encoder.text_tokenizer.vocabulary_size, width=16)
    trained = TrainedReader(SpanReader(config).eval(), Calibration(threshold=threshold, sure=sure), "")
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        texts = [f"Copper number {i} turns green. Iron number {i} rusts.\n" for i in range(4)]
        store.replace([indexed(f"d{i}", text, encoder) for i, text in enumerate(texts)])
        writer = ReaderGenerator(Reading(encoder, trained, ContextCache.of(store, encoder)))
        answerer = Answerer(store, encoder, AnswerRules(threshold=-9, floor=-9), generator=writer)
        answer = answerer.ask("What turns green?")
        again = answerer.ask("What turns green?")
    assert answer.generator == generator
    assert again.text == answer.text
    assert answer.confidence is not None and again.confidence == answer.confidence
    assert 0 < answer.confidence < 1
    assert again.usage.cached_tokens > answer.usage.cached_tokens == 0
    assert (answer.text == NO_ANSWER) == (threshold > 1)
    if answer.generator == "reader" and answer.grounded:
        said = re.sub(r"( \[\d+\])+$", "", answer.text)
        assert said in " ".join(citation.text for citation in answer.citations)
    for citation in answer.citations:
        assert citation.text in texts[int(citation.doc_id[1:])]
