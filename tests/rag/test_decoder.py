"""The in-context generator on a tiny decoder: prefix cache, drafting, what does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from decant.index.documents import Chunk, Hit
from decant.rag import GeneratorError, Source, Task
from decant.rag.generators.decoder import DecoderGenerator
from decant.rag.generators.kv_reuse import compress, encode_passage, join


@pytest.fixture(scope="module")
def folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoder")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, bos_token_id=None, eos_token_id=1, initializer_range=0.3,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def task(question: str, *texts: str, tenant: str = "", max_tokens: int = 12) -> Task:
    hits = [Hit(Chunk("d", i, 0, len(text), text), 1.0, "", "p", {}, {}) for i, text in enumerate(texts)]
    sources = tuple(Source(i, hit, ()) for i, hit in enumerate(hits, 1))
    return Task(question, question, sources, tenant=tenant, max_tokens=max_tokens)


def test_a_prefix_is_read_once_and_changes_nothing(folder):
    fresh, warm = (DecoderGenerator.load(folder, dtype="float32") for _ in range(2))
    list(warm.generate(task("What rusts?", "Iron rusts.")))
    again = task("What turns green?", "Iron rusts.")
    alone = task("What turns green?", "Iron rusts.")
    assert "".join(warm.generate(again)) == "".join(fresh.generate(alone)) != ""
    assert again.meter.usage.cached_tokens > 100
    assert alone.meter.usage.cached_tokens == 0
    assert again.meter.usage.prompt_tokens == alone.meter.usage.prompt_tokens


def test_a_prefix_never_crosses_tenants(folder):
    generator = DecoderGenerator.load(folder, dtype="float32")
    list(generator.generate(task("What rusts?", "Iron rusts.", tenant="one")))
    other = task("What rusts?", "Iron rusts.", tenant="two")
    list(generator.generate(other))
    assert other.meter.usage.cached_tokens == 0


def test_a_stream_that_is_left_leaves_the_generator_usable(folder):
    generator = DecoderGenerator.load(folder, dtype="float32")
    stream = generator.generate(task("What rusts?", "Iron rusts."))
    next(stream)
    stream.close()
    assert list(generator.generate(task("What rusts?", "Iron rusts.")))


def test_a_draft_changes_nothing(folder):
    plain = DecoderGenerator.load(folder, dtype="float32")
    drafted = DecoderGenerator.load(folder, dtype="float32", draft=folder)
    texts = ["".join(g.generate(task("What rusts?", "Iron rusts."))) for g in (plain, drafted)]
    assert texts[0] == texts[1]


def test_sources_that_do_not_fit_are_left_out_and_a_question_that_does_not_is_refused(folder):
    generator = DecoderGenerator.load(folder, dtype="float32")
    both = task("What rusts?", "Iron rusts.", "Copper. " * 400)
    list(generator.generate(both))
    assert both.meter.usage.prompt_tokens < 1000
    with pytest.raises(GeneratorError, match="longer context"):
        list(generator.generate(task("Why? " * 2000, "Iron rusts.")))


def test_a_folder_without_a_decoder_is_refused(tmp_path):
    with pytest.raises(GeneratorError, match="holds no decoder"):
        DecoderGenerator.load(tmp_path)


def test_joined_passages_are_what_each_alone_would_be_in_its_place(folder):
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    one, two, question = torch.arange(5, 15), torch.arange(30, 38), torch.arange(60, 64)
    single, after = join(model, [encode_passage(model, one)])
    whole = model(input_ids=torch.cat([one, question])[None]).logits[:, -4:]
    reused = model(input_ids=question[None], past_key_values=single).logits
    torch.testing.assert_close(reused, whole, atol=1e-5, rtol=1e-5)
    cache, after = join(model, [encode_passage(model, one), encode_passage(model, two)])
    assert after == 18
    from transformers import DynamicCache

    moved = DynamicCache(config=model.config)
    model(input_ids=two[None], position_ids=torch.arange(10, 18)[None], past_key_values=moved)
    for layer, other in zip(cache.layers, moved.layers, strict=True):
        torch.testing.assert_close(layer.keys[:, :, 10:], other.keys, atol=1e-5, rtol=1e-5)


def test_compression_keeps_the_shortest_keys_and_all_of_all(folder):
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    passage = encode_passage(model, torch.arange(5, 25))
    whole = compress(passage, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(whole.keys, passage.keys, strict=True))
    half = compress(passage, 0.5)
    assert half.nbytes * 2 == passage.nbytes
    for kept, key in zip(half.keys, passage.keys, strict=True):
        expected = key.norm(dim=-1).sort().values[..., :10].sort().values
        torch.testing.assert_close(kept.norm(dim=-1).sort().values, expected)


def test_a_sink_is_read_by_all_passages_and_stands_in_front_once(folder):
    model = LlamaForCausalLM.from_pretrained(folder).eval()
    sink, one, two, question = torch.tensor([1]), torch.arange(5, 15), torch.arange(30, 38), torch.arange(60, 64)
    head = encode_passage(model, sink)
    cache, after = join(model, [head, encode_passage(model, one, sink)])
    whole = model(input_ids=torch.cat([sink, one, question])[None]).logits[:, -4:]
    reused = model(input_ids=question[None], past_key_values=cache).logits
    torch.testing.assert_close(reused, whole, atol=1e-5, rtol=1e-5)
    assert after == 11
    cache, after = join(model, [head, encode_passage(model, one, sink), encode_passage(model, two, sink)])
    assert cache.layers[0].keys.shape[2] == after == 19
