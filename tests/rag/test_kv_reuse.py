"""Keys and values that are joined: exact where they can be, counted, by tenant, refused where keys cannot move."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer, DynamicCache, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from decant.rag import GeneratorError, Task
from decant.rag.generators.choosing import GeneratorChoice, build_generator
from decant.rag.generators.decoder import load_decoder, prompt_text
from decant.rag.generators.kv_reuse import compress, encode_passage, join
from decant.rag.generators.prompting import messages_around
from decant.rag.generators.reusing import ReuseGenerator


def test_joined_passages_are_what_each_alone_would_be_in_its_place(decoder_folder):
    model = LlamaForCausalLM.from_pretrained(decoder_folder).eval()
    one, two, question = torch.arange(5, 15), torch.arange(30, 38), torch.arange(60, 64)
    single, after = join(model, [encode_passage(model, one)])
    whole = model(input_ids=torch.cat([one, question])[None]).logits[:, -4:]
    reused = model(input_ids=question[None], past_key_values=single).logits
    torch.testing.assert_close(reused, whole, atol=1e-5, rtol=1e-5)
    cache, after = join(model, [encode_passage(model, one), encode_passage(model, two)])
    assert after == 18
    moved = DynamicCache(config=model.config)
    model(input_ids=two[None], position_ids=torch.arange(10, 18)[None], past_key_values=moved)
    for layer, other in zip(cache.layers, moved.layers, strict=True):
        torch.testing.assert_close(layer.keys[:, :, 10:], other.keys, atol=1e-5, rtol=1e-5)


def test_compression_keeps_the_shortest_keys_and_all_of_all(decoder_folder):
    model = LlamaForCausalLM.from_pretrained(decoder_folder).eval()
    passage = encode_passage(model, torch.arange(5, 25))
    whole = compress(passage, 1.0)
    assert all(torch.equal(a, b) for a, b in zip(whole.keys, passage.keys, strict=True))
    half = compress(passage, 0.5)
    assert half.nbytes * 2 == passage.nbytes
    for kept, key in zip(half.keys, passage.keys, strict=True):
        expected = key.norm(dim=-1).sort().values[..., :10].sort().values
        torch.testing.assert_close(kept.norm(dim=-1).sort().values, expected)


def test_a_sink_is_read_by_all_passages_and_stands_in_front_once(decoder_folder):
    model = LlamaForCausalLM.from_pretrained(decoder_folder).eval()
    sink, one, two, question = torch.tensor([1]), torch.arange(5, 15), torch.arange(30, 38), torch.arange(60, 64)
    head = encode_passage(model, sink)
    cache, after = join(model, [head, encode_passage(model, one, sink)])
    whole = model(input_ids=torch.cat([sink, one, question])[None]).logits[:, -4:]
    reused = model(input_ids=question[None], past_key_values=cache).logits
    torch.testing.assert_close(reused, whole, atol=1e-5, rtol=1e-5)
    assert after == 11
    cache, after = join(model, [head, encode_passage(model, one, sink), encode_passage(model, two, sink)])
    assert cache.layers[0].keys.shape[2] == after == 19


def pieces_of(reuse: ReuseGenerator, asked: Task) -> list[list[int]]:
    """Ids of the rules, of each source's number and text, and of what follows."""
    text, special = prompt_text(reuse._tokenizer, messages_around(asked, "@"))
    before, after = text.split("@")
    sources = [ids for source in asked.sources for ids in reuse._pieces(source).values()]
    return [reuse._ids(before, special=special), *sources, reuse._ids(f"\n{after}")]


def test_it_writes_what_one_pass_does_whose_passages_do_not_see_each_other(decoder_folder, task):
    reuse = ReuseGenerator.load(decoder_folder, dtype="float32")
    asked = task("What rusts?", "Iron rusts.", "Copper turns green.", max_tokens=1)
    text = "".join(reuse.generate(asked))
    pieces = pieces_of(reuse, asked)
    piece = torch.cat([torch.full((len(ids),), i) for i, ids in enumerate(pieces)])
    sees = (piece[:, None] == piece) | (piece == 0) | (piece[:, None] == len(pieces) - 1)
    mask = torch.zeros(1, 1, len(piece), len(piece)).masked_fill(~sees.tril(), torch.finfo(torch.float32).min)
    model, tokenizer = load_decoder(decoder_folder, dtype="float32")
    logits = model(input_ids=torch.tensor([sum(pieces, [])]), attention_mask=mask).logits[0, -1]
    assert text == tokenizer.decode([int(logits.argmax())])
    assert asked.meter.usage.prompt_tokens == len(piece)


def test_passages_are_known_by_tenant_in_any_order_until_the_budget_ends(decoder_folder, task):
    reuse = ReuseGenerator.load(decoder_folder, dtype="float32")
    known = {}
    for tenant, texts in (
        ("one", ("Iron rusts.", "Tin melts.")), ("one", ("Tin melts.", "Iron rusts.")), ("two", ("Tin melts.",)),
    ):  # fmt: skip
        asked = task("What rusts?", *texts, tenant=tenant)
        list(reuse.generate(asked))
        known[tenant, texts] = asked.meter.usage.cached_tokens
    assert [count > 100 for count in known.values()] == [False, True, False]
    small = ReuseGenerator(*load_decoder(decoder_folder, dtype="float32"), "small", budget_bytes=10)
    for _ in range(2):
        asked = task("What rusts?", "Iron rusts.")
        assert list(small.generate(asked))
        assert asked.meter.usage.cached_tokens == 0


def test_half_of_the_keys_take_half_of_the_memory(decoder_folder, task):
    held = []
    for keep in (1.0, 0.5):
        reuse = ReuseGenerator.load(decoder_folder, dtype="float32", keep=keep)
        assert list(reuse.generate(task("What rusts?", "Iron rusts. " * 60)))
        held.append(sum(part.nbytes for (_, key), part in reuse._known.items() if key.startswith("chunk")))
    assert held[0] == pytest.approx(2 * held[1], rel=0.02)


def test_sources_that_do_not_fit_are_left_out_and_a_question_that_does_not_is_refused(decoder_folder, task):
    reuse = ReuseGenerator.load(decoder_folder, dtype="float32")
    both = task("What rusts?", "Iron rusts.", "Copper. " * 400)
    list(reuse.generate(both))
    assert both.meter.usage.prompt_tokens < 1000
    with pytest.raises(GeneratorError, match="longer context"):
        list(reuse.generate(task("Why? " * 2000, "Iron rusts.")))


def test_where_keys_cannot_be_moved_reuse_is_refused(decoder_folder, tmp_path, store, encoder):
    config = GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=4, n_positions=64)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(decoder_folder).save_pretrained(tmp_path)
    with pytest.raises(GeneratorError, match="cannot be moved"):
        build_generator(GeneratorChoice(str(tmp_path), reuse=1.0), store, encoder)
    scaled = LlamaConfig.from_pretrained(
        decoder_folder, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}
    )
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(GeneratorError, match="cannot be moved"):
            model = LlamaForCausalLM(scaled).to(dtype).eval()
            ReuseGenerator(model, AutoTokenizer.from_pretrained(decoder_folder), "scaled")
    assert ReuseGenerator.load(decoder_folder, dtype="bfloat16").name == decoder_folder.name
    for choice in (GeneratorChoice("evidence", reuse=1.0), GeneratorChoice(str(decoder_folder), draft="x", reuse=1.0)):
        with pytest.raises(GeneratorError, match="name its folder"):
            build_generator(choice, store, encoder)
    with pytest.raises(GeneratorError, match="above 0"):
        build_generator(GeneratorChoice(str(decoder_folder), reuse=0.0), store, encoder)
