"""The cross-attention decoder against an independent statement of the official model."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM

from decant.rag import GeneratorError
from decant.rag.xc.config import XcConfig
from decant.rag.xc.decoder import XcDecoder


@pytest.fixture(scope="module")
def base() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=5, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-5, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def decoder(base: LlamaForCausalLM, **options: Any) -> XcDecoder:
    sizes = {"blocks": 2, "stride": 2, "hidden": 16, "heads": 4, "kv_heads": 4, "inner": 64, "gate": False}
    config = XcConfig(decoder_layers=5, decoder_width=32, **{"context_width": 32, **sizes, **options})
    torch.manual_seed(1)
    made = XcDecoder(LlamaForCausalLM(base.config), config, std=0.3).eval()
    made.base.load_state_dict(base.state_dict())
    for parameter in made.cross_attn_layers.parameters():
        parameter.data.add_(0.01 * torch.randn_like(parameter))  # norms and biases too
    return made


def turned(x: Tensor, places: Tensor) -> Tensor:
    """Rotary positions by complex numbers."""
    half = x.shape[-1] // 2
    angle = places[:, None].double() / 10_000.0 ** (torch.arange(half).double() / half)
    z = torch.complex(x[..., :half].double(), x[..., half:].double()) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([z.real, z.imag], -1).float()


def reference_block(state: dict[str, Tensor], i: int, x: Tensor, context: Tensor, heads: int, kv: int) -> Tensor:
    """One block on one sequence, (L, D) and (N, D), from the checkpoint's keys."""

    def w(name: str) -> Tensor:
        return state[f"cross_attn_layers.{i}.{name}"]

    def split(y: Tensor, count: int) -> Tensor:
        return y.reshape(len(y), count, -1).transpose(0, 1)

    def norm(y: Tensor, name: str) -> Tensor:
        centred = y - y.mean(-1, keepdim=True)
        return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * w(f"{name}.weight") + w(f"{name}.bias")

    h = norm(x, "ln_1")
    q = turned(split(h @ w("crossattention.q_proj.weight").T, heads), torch.arange(len(x)))
    k = turned(split(context @ w("crossattention.k_proj.weight").T, kv), torch.arange(len(context)))
    v = split(context @ w("crossattention.v_proj.weight").T, kv)
    k, v = k.repeat_interleave(heads // kv, 0), v.repeat_interleave(heads // kv, 0)
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-1)
    x = x + (weights @ v).transpose(0, 1).reshape(len(x), -1) @ w("crossattention.o_proj.weight").T
    h = norm(x, "ln_2")
    inner = F.silu(h @ w("mlp.gate_proj.weight").T) * (h @ w("mlp.up_proj.weight").T)
    return x + inner @ w("mlp.down_proj.weight").T


@pytest.mark.parametrize("after", [True, False])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_logits_are_those_of_the_official_model(base, tmp_path, after, kv_heads):
    made = decoder(base, after=after, kv_heads=kv_heads)
    made.save(tmp_path, "base")
    from safetensors.torch import load_file

    state = load_file(tmp_path / "model.safetensors")
    ids, context = torch.arange(7), torch.randn(11, 32)
    layers = base.model.layers
    with torch.no_grad():
        x = base.model.embed_tokens(ids)[None]
        turns = base.model.rotary_emb(x, torch.arange(7)[None])
        mask = torch.full((7, 7), -torch.inf).triu(1)[None, None]
        for i, layer in enumerate(layers):
            if i in (4, 2) and not after:
                x = reference_block(state, i, x[0], context, 4, kv_heads)[None]
            x = layer(x, attention_mask=mask, position_embeddings=turns)
            if i in (4, 2) and after:
                x = reference_block(state, i, x[0], context, 4, kv_heads)[None]
        expected = base.lm_head(base.model.norm(x))
        found = made(ids[None], made.remember(context, [11])).logits
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_the_official_keys_and_words(base, tmp_path):
    decoder(base).save(tmp_path, "meta/llama")
    from safetensors.torch import load_file

    parts = ["ln_1.weight", "ln_1.bias", "ln_2.weight", "ln_2.bias"]
    parts += [f"crossattention.{p}_proj.weight" for p in "qkvo"] + [
        f"mlp.{p}_proj.weight" for p in ("gate", "up", "down")
    ]
    expected = {f"cross_attn_layers.{i}.{part}" for i in (4, 2) for part in parts}
    assert set(load_file(tmp_path / "model.safetensors")) == expected
    raw = json.loads((tmp_path / "config.json").read_text())
    assert raw["_name_or_path"] == "meta/llama"
    assert (raw["n_cross_attn_layers"], raw["cross_attn_layers_stride"], raw["cross_attn_final_layer"]) == (2, 2, True)


def test_saved_and_loaded_it_says_the_same(base, tmp_path):
    made = decoder(base, gate=True)
    made.save(tmp_path, "base")
    ids, context = torch.arange(5)[None], torch.randn(4, 32)
    fresh = LlamaForCausalLM(base.config)
    fresh.load_state_dict(base.state_dict())
    again = XcDecoder.load(tmp_path, fresh)
    assert torch.equal(again(ids, again.remember(context, [4])).logits, made(ids, made.remember(context, [4])).logits)


def test_a_new_gated_block_changes_nothing_and_an_empty_context_only_the_mlp(base):
    made = decoder(base, gate=True)
    for block in made.cross_attn_layers.values():
        block.gates.data.zero_()
    ids = torch.arange(5)[None]
    plain = base(input_ids=ids).logits
    assert torch.equal(made(ids, made.remember(torch.randn(3, 32), [3])).logits, plain)
    assert torch.equal(made(ids, made.remember(torch.zeros(0, 32), [0])).logits, plain)


def test_one_context_serves_all_sequences(base):
    made = decoder(base)
    ids, context = torch.arange(10).view(2, 5), torch.randn(3, 32)
    shared = made(ids, made.remember(context, [3])).logits
    torch.testing.assert_close(shared, made(ids, made.remember(context.repeat(2, 1), [3, 3])).logits)


def test_contexts_of_a_batch_do_not_mix(base):
    made = decoder(base)
    ids, contexts = torch.arange(10).view(2, 5), [torch.randn(3, 32), torch.randn(6, 32)]
    both = made(ids, made.remember(torch.cat(contexts), [3, 6])).logits
    for i, context in enumerate(contexts):
        alone = made(ids[i : i + 1], made.remember(context, [len(context)])).logits
        torch.testing.assert_close(both[i : i + 1], alone, atol=1e-5, rtol=1e-5)


def test_writing_step_by_step_is_reading_the_whole(base):
    made = decoder(base)
    memories = made.remember(torch.randn(9, 32), [9])
    ids = torch.tensor([3, 1, 4])
    written = list(made.write(ids, memories, max_tokens=6, stop=frozenset()))
    for step, token in enumerate(written):
        whole = made(torch.cat([ids, torch.tensor(written[:step], dtype=torch.int64)])[None], memories)
        assert int(whole.logits[0, -1].argmax()) == token


def test_only_the_blocks_learn_and_the_context_is_used(base):
    """Two contexts, two answers: after some steps the right context makes its answer likelier than the other does."""
    made = decoder(base, gate=True)
    made.train()
    contexts = torch.randn(2, 4, 32)
    ids, wanted = torch.tensor([[5], [5]]), torch.tensor([7, 9])
    before = {name: value.clone() for name, value in made.base.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(40):
        loss = F.cross_entropy(made(ids, made.remember(contexts.flatten(0, 1), [4, 4])).logits[:, -1], wanted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    made.eval()
    right = F.cross_entropy(made(ids, made.remember(contexts.flatten(0, 1), [4, 4])).logits[:, -1], wanted)
    wrong = F.cross_entropy(made(ids, made.remember(contexts.flip(0).flatten(0, 1), [4, 4])).logits[:, -1], wanted)
    assert right < 0.2 < wrong
    assert all(torch.equal(before[name], value) for name, value in made.base.state_dict().items() if name in before)


def test_begun_from_self_attention(base):
    made = decoder(base, hidden=32, heads=4, kv_heads=2)
    made.initialize_from_self_attention()
    layer = made.base.model.layers[4].self_attn
    block = made.cross_attn_layers["4"].crossattention
    assert torch.equal(block.q_proj.weight, layer.q_proj.weight)
    assert torch.equal(block.k_proj.weight, layer.k_proj.weight)


@pytest.mark.parametrize(
    "options", [{"blocks": 4}, {"heads": 3}, {"kv_heads": 3}, {"hidden": 12, "heads": 4}, {"blocks": 0}]
)
def test_sizes_that_do_not_fit_are_refused(base, options):
    with pytest.raises(GeneratorError):
        decoder(base, **options)


def test_folders_that_hold_no_blocks_are_refused(base, tmp_path):
    with pytest.raises(GeneratorError, match="cannot be read"):
        XcDecoder.load(tmp_path, base)
    decoder(base).save(tmp_path, "base")
    raw = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**raw, "cross_attn_shared_weights": True}))
    with pytest.raises(GeneratorError, match="shared_weights"):
        XcDecoder.load(tmp_path, base)
    (tmp_path / "config.json").write_text(json.dumps({**raw, "cross_attn_hidden_size": 32}))
    with pytest.raises(GeneratorError, match="do not fit"):
        XcDecoder.load(tmp_path, base)
