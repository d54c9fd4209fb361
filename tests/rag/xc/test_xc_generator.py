"""Trained blocks as a generator, from a folder that names its decoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from decant.index.documents import Chunk, Hit
from decant.rag import Answerer, GeneratorError, Source, Task
from decant.rag.generators.choosing import GeneratorChoice, build_generator
from decant.rag.xc.config import ASK, XcConfig
from decant.rag.xc.decoder import XcDecoder
from decant.rag.xc.generator import XcGenerator

TEXTS = ("Iron rusts in moist air.", "Copper turns green over the years.")


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`xc` beside its decoder `base`."""
    root = tmp_path_factory.mktemp("models")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(root / "base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, bos_token_id=None, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    base = LlamaForCausalLM(config)
    base.save_pretrained(root / "base")
    sizes = XcConfig(3, 32, 32, blocks=2, stride=1, hidden=32, heads=4, kv_heads=2, inner=64, gate=False)
    XcDecoder(base, sizes, std=0.5).save(root / "xc", "../base")
    return root / "xc"


def task(*texts: str, tenant: str = "", max_tokens: int = 12, question: str = "What rusts?") -> Task:
    hits = [Hit(Chunk("d", i, 0, len(text), text), 1.0, "", "p", {}, {}) for i, text in enumerate(texts)]
    sources = tuple(Source(i, hit, ()) for i, hit in enumerate(hits, 1))
    return Task(question, question, sources, tenant=tenant, max_tokens=max_tokens)


def test_it_writes_what_the_decoder_does_with_the_passages_states(folder):
    generator = XcGenerator.load(folder, dtype="float32")
    base = LlamaForCausalLM.from_pretrained(folder.parent / "base").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "base")
    decoder = XcDecoder.load(folder, base)

    def ids(text: str) -> torch.Tensor:
        return torch.tensor(tokenizer.encode(text, add_special_tokens=False))

    def wanted(texts: tuple[str, ...]) -> str:
        states = torch.cat([decoder.context_states(ids(text)).half().float() for text in texts])
        memories = decoder.remember(states, [len(states)])
        tokens = decoder.write(ids(ASK.format("What rusts?")), memories, max_tokens=12, stop=frozenset({1}))
        return tokenizer.decode(list(tokens), skip_special_tokens=True)

    with torch.no_grad():
        expected = [wanted(TEXTS), wanted(TEXTS[1:])]
    assert ["".join(generator.generate(task(*texts))) for texts in (TEXTS, TEXTS[1:])] == expected
    assert expected[0] != expected[1] != ""


def test_states_are_made_once_for_each_tenant(folder):
    generator = XcGenerator.load(folder, dtype="float32")
    tasks = [task(*TEXTS, tenant="one"), task(*TEXTS, tenant="one"), task(*TEXTS, tenant="two")]
    texts = ["".join(generator.generate(each)) for each in tasks]
    assert len(set(texts)) == 1
    used = [each.meter.usage for each in tasks]
    assert used[0].cached_tokens == used[2].cached_tokens == 0 < used[1].cached_tokens < used[1].prompt_tokens
    assert generator.cache.counters.misses == 4


def test_what_it_writes_is_checked_and_else_quoted(folder, store, encoder, rules):
    generator = build_generator(GeneratorChoice(str(folder)), store, encoder)
    assert isinstance(generator, XcGenerator)
    answer = Answerer(store, encoder, rules, generator=generator).ask("Which metal turns green over the years?")
    assert answer.dropped  # random weights write nothing that a document says
    assert (answer.generator, answer.citations[0].text) == ("evidence", TEXTS[1])
    assert "not by xc" in answer.note


def test_sources_that_do_not_fit_are_left_out_and_a_question_that_does_not_is_refused(folder):
    generator = XcGenerator.load(folder, dtype="float32")
    long = task(TEXTS[0], "Copper. " * 400)
    list(generator.generate(long))
    assert long.meter.usage.prompt_tokens < 512
    with pytest.raises(GeneratorError, match="longer context"):
        list(generator.generate(task(*TEXTS, question="Why? " * 300)))


def test_what_cannot_be_loaded_is_named(folder, tmp_path, store, encoder):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(GeneratorError, match="_name_or_path"):
        build_generator(GeneratorChoice(str(tmp_path)), store, encoder)
    raw = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "_name_or_path": ""}))
    with pytest.raises(GeneratorError, match="whose blocks"):
        XcGenerator.load(tmp_path)
    with pytest.raises(GeneratorError, match="--draft"):
        build_generator(GeneratorChoice(str(folder), draft="other"), store, encoder)
