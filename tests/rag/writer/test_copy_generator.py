"""The writer in its folder and in an answerer."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from decant.embedder import Encoder, EncoderSpec
from decant.index import Document, Store
from decant.index.batches import index_documents
from decant.index.documents import Chunk, Hit
from decant.index.testing import indexed
from decant.rag import NO_ANSWER, Answerer, AnswerRules, GeneratorError, Source, Task
from decant.rag.context_cache import ContextCache
from decant.rag.generators.choosing import GeneratorChoice, build_generator, reads_states, shipped_reading
from decant.rag.reader.adapter import weights_digest
from decant.rag.reader.confidence import Calibration
from decant.rag.reader.model import ReaderConfig, SpanReader
from decant.rag.states import encode_states
from decant.rag.writer.adapter import SHIPPED, TrainedWriter, decoder_of, holds_writer
from decant.rag.writer.generator import CopyGenerator
from decant.rag.writer.lit import ODDS
from decant.rag.writer.model import CopyWriter
from decant.rag.xc.config import XcConfig
from decant.rag.xc.decoder import XcDecoder

TEXTS = [f"Copper number {i} turns green. Iron number {i} rusts.\n" for i in range(4)]


@pytest.fixture(scope="module")
def encoder(tiny_model: Path) -> Encoder:
    return Encoder.load(tiny_model, dtype="float32", spec=EncoderSpec(max_tokens=64), verify=False)


@pytest.fixture
def trained(encoder: Encoder) -> TrainedWriter:
    torch.manual_seed(0)
    base, width = decoder_of(encoder), encoder.backbone.hidden_size
    reader = SpanReader(ReaderConfig(width, encoder.text_tokenizer.vocabulary_size, 16))
    blocks = XcConfig(
        base.config.num_hidden_layers, width, width + 16 + ODDS + 1, blocks=1, stride=1, hidden=16, heads=4, kv_heads=4,
        inner=24, gate=False, eps=base.config.rms_norm_eps,
    )  # fmt: skip
    writer = CopyWriter(XcDecoder(base, blocks), reader)
    for module in (writer.decoder.cross_attn_layers, writer.reader, writer.head):
        for parameter in module.parameters():
            parameter.data.copy_(parameter.data.half())
    return TrainedWriter(writer.eval(), Calibration(tuple(map(float, range(7))), 0.5, 0.75), 2, weights_digest(encoder))


def task(*texts: str, tenant: str = "") -> Task:
    quote = type("Quote", (), {"score": 1.0, "start_char": 0, "end_char": 5})()
    hits = [Hit(Chunk("d", i, 0, len(text), text), 1.0, "", "p", {}, {}) for i, text in enumerate(texts)]
    sources = tuple(Source(i, hit, (quote,)) for i, hit in enumerate(hits, 1))
    return Task("What rusts?", "What rusts?", sources, tenant=tenant)


def test_saved_and_loaded_it_writes_the_same_and_only_for_its_own_encoder(encoder, trained, tmp_path):
    trained.save(tmp_path / "w", "base")
    again = TrainedWriter.load(tmp_path / "w", encoder)
    assert (again.calibration, again.passages, again.weights) == (trained.calibration, 2, trained.weights)
    cache = ContextCache(lambda texts: encode_states(encoder, texts), "x")
    answers = [CopyGenerator(encoder, each, cache).candidates(task(*TEXTS)) for each in (trained, again)]
    assert [(c.text, c.span) for c in answers[0]] == [(c.text, c.span) for c in answers[1]]
    assert not any(name.startswith("base") for name in load_file(tmp_path / "w" / "model.safetensors"))
    replace(trained, weights="other").save(tmp_path / "other", "base")
    with pytest.raises(GeneratorError, match="another encoder"):
        TrainedWriter.load(tmp_path / "other", encoder)


def test_a_damaged_folder_is_refused(encoder, trained, tmp_path):
    with pytest.raises(GeneratorError, match="holds no writer"):
        TrainedWriter.load(tmp_path / "none", encoder)
    trained.save(tmp_path / "w", "base")
    config, weights = tmp_path / "w" / "config.json", tmp_path / "w" / "model.safetensors"
    facts = json.loads(config.read_text())
    config.write_text(json.dumps(facts | {"decant": facts["decant"] | {"writer_format": 0}}))
    with pytest.raises(GeneratorError, match="its format is 0"):
        TrainedWriter.load(tmp_path / "w", encoder)
    config.write_text(json.dumps(facts))
    tensors = load_file(weights)
    save_file({name: value for name, value in tensors.items() if not name.startswith("head.key")}, weights)
    with pytest.raises(GeneratorError, match="Missing key"):
        TrainedWriter.load(tmp_path / "w", encoder)
    weights.write_bytes(b"no tensors")
    with pytest.raises(GeneratorError, match="holds no writer"):
        TrainedWriter.load(tmp_path / "w", encoder)


def test_it_reads_as_many_passages_as_it_was_trained_for_each_once_for_a_tenant(encoder, trained):
    generator = CopyGenerator(encoder, trained, ContextCache(lambda texts: encode_states(encoder, texts), "x"))
    tasks = [task(*TEXTS, tenant=tenant) for tenant in ("one", "one", "two")]
    found = [generator.candidates(each) for each in tasks]
    assert len({tuple(c.text for c in each) for each in found}) == 1
    assert {c.source.number for c in found[0]} <= {1, 2}
    used = [each.meter.usage for each in tasks]
    assert used[0].cached_tokens == used[2].cached_tokens == 0 < used[1].cached_tokens < used[1].prompt_tokens
    assert used[0].completion_tokens > 0
    assert generator.cache.counters.misses == 4


def test_without_anything_to_read_there_are_no_candidates(encoder, trained):
    generator = CopyGenerator(encoder, trained, ContextCache(lambda texts: encode_states(encoder, texts), "x"))
    assert generator.candidates(task()) == []


@pytest.mark.parametrize(("threshold", "sure", "writes"), [(0.0, 0.0, "xc"), (0.0, 2.0, "evidence"), (2.0, 2.0, "xc")])
def test_in_an_answerer_it_cites_what_it_copied(encoder, trained, tmp_path, threshold, sure, writes):
    replace(trained, calibration=Calibration(threshold=threshold, sure=sure)).save(tmp_path / "w", "base")
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        store.replace([indexed(f"d{i}", text, encoder) for i, text in enumerate(TEXTS)])
        generator = build_generator(GeneratorChoice(str(tmp_path / "w")), store, encoder)
        assert isinstance(generator, CopyGenerator)
        answer = Answerer(store, encoder, AnswerRules(threshold=-9, floor=-9), generator=generator).ask("What rusts?")
    assert answer.generator == writes
    assert answer.confidence is not None and 0 < answer.confidence < 1
    assert (answer.text == NO_ANSWER) == (threshold > 1)
    if writes == "xc" and answer.grounded:
        said = re.sub(r"( \[\d+\])+$", "", answer.text)
        assert said in " ".join(citation.text for citation in answer.citations)
    for citation in answer.citations:
        assert citation.text in TEXTS[int(citation.doc_id[1:])]


def test_who_reads_a_stores_own_states(trained, folder_of_blocks, tmp_path):
    trained.save(tmp_path / "w", "base")
    assert holds_writer(tmp_path / "w")
    assert not holds_writer(folder_of_blocks)
    choices = {name: reads_states(GeneratorChoice(name)) for name in ("xc", "reader", "auto", "evidence", "http://x")}
    assert choices == {"xc": True, "reader": True, "auto": True, "evidence": True, "http://x": False}
    assert reads_states(GeneratorChoice(str(tmp_path / "w")))
    assert not reads_states(GeneratorChoice(str(folder_of_blocks)))


def test_it_needs_no_draft_and_no_keys(encoder, trained, tmp_path):
    trained.save(tmp_path / "w", "base")
    with Store.open(tmp_path / "s", encoder=encoder, create=True) as store:
        for choice in (
            GeneratorChoice(str(tmp_path / "w"), draft="x"),
            GeneratorChoice(str(tmp_path / "w"), reuse=0.5),
        ):
            with pytest.raises(GeneratorError, match="leave --draft"):
                build_generator(choice, store, encoder)
        with pytest.raises(GeneratorError, match="trained on another encoder|holds no writer"):
            build_generator(GeneratorChoice("xc"), store, encoder)


@pytest.fixture
def folder_of_blocks(tmp_path: Path) -> Path:
    """Cross-attention blocks of the official kind, without a head that copies."""
    folder = tmp_path / "blocks"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(XcConfig(4, 32, 32, blocks=1).official("base")))
    return folder


def test_the_one_that_ships_writes_for_decant_mini(tmp_path):
    mini = Encoder.load(verify=False)
    texts = [
        "The bridge over the Tarn was opened in 2004. It was designed by Michel Virlogeux. It is 2,460 m long.",
        "The tower was painted grey. Its lift was built by Roux in Lyon. Visitors queue for an hour.",
    ]
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 25 << 20
    with Store.open(tmp_path / "s", encoder=mini, create=True) as store:
        index_documents(store, mini, [Document(str(i), text) for i, text in enumerate(texts)])
        generator = build_generator(GeneratorChoice("xc"), store, mini, shipped_reading(store, mini))
        answerer = Answerer(store, mini, generator=generator)
        questions = "Who designed the bridge?", "Who built the lift of the tower?"
        answers = [answerer.ask(question) for question in questions]
        refused = answerer.ask("What is the boiling point of mercury?")
    assert [answer.text for answer in answers] == ["Michel Virlogeux [1]", "Roux [1]"]
    assert [answer.generator for answer in answers] == ["xc", "xc"]
    assert "designed by" in answers[0].citations[0].text
    assert refused.text == NO_ANSWER
