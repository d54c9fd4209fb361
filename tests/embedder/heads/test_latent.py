"""Latent attention: the twin against its formula, gradients, the cached keys and values, weights that do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from decant.embedder import EncoderSpec, ModelError
from decant.embedder.latent import LatentAttention
from decant.embedder.spec import LatentSpec
from decant.kernels.attention import PackedLayout
from decant.kernels.pooling import LatentWeights, latent_keys_values, pool_latent

LENGTHS = [5, 5, 1, 3]
SPEC = LatentSpec(latents=6, heads=2, head_dim=4, hidden_size=8)


def block(seed: int = 0) -> LatentAttention:
    made = LatentAttention(SPEC, 8)
    made.initialise(seed)
    with torch.no_grad():
        for value in made.parameters():
            value += 0.1 * torch.randn_like(value)
    return made


def by_formula(hidden: Tensor, w: LatentWeights) -> Tensor:
    """One token at a time, one head at a time (arXiv 2405.17428, section 3.1)."""
    context = functional.layer_norm(w.latents, (8,), *w.norm_context)
    keys, values = (context @ w.to_kv.T).chunk(2, -1)
    out: list[Tensor] = []
    for token in hidden:
        query = functional.layer_norm(token, (8,), *w.norm) @ w.to_q.T
        heads: list[Tensor] = []
        for h in range(w.heads):
            part = slice(4 * h, 4 * h + 4)
            scores = (keys[:, part] @ query[part]) / 4**0.5
            heads.append(scores.softmax(0) @ values[:, part])
        token = token + w.to_out @ torch.cat(heads)
        x, gate = (w.ff_in[0] @ functional.layer_norm(token, (8,), *w.norm_ff) + w.ff_in[1]).chunk(2)
        out.append(token + w.ff_out[0] @ (x * functional.gelu(gate)) + w.ff_out[1])
    return torch.stack(out)


@pytest.mark.parametrize("masked", [False, True])
def test_twin_equals_the_formula_forward_and_gradient(masked: bool) -> None:
    layout = PackedLayout.from_lengths(LENGTHS, causal=False)
    total = sum(LENGTHS)
    keep = torch.ones(total, dtype=torch.bool)
    if masked:
        keep[[0, 1, 5, 11]] = False
    made = block()
    results: list[list[Tensor]] = []
    for plain in (False, True):
        made.zero_grad()
        hidden = torch.randn(total, 8, generator=torch.Generator().manual_seed(1)).requires_grad_()
        if plain:
            states = by_formula(hidden, made.weights())
            rows = states.split(LENGTHS)
            out = torch.stack([row[k].mean(0) for row, k in zip(rows, keep.split(LENGTHS), strict=True)])
        else:
            out = pool_latent(hidden, layout, keep if masked else None, made.weights())
        (out * torch.arange(32.0).view(4, 8)).sum().backward()
        assert hidden.grad is not None
        gradients = [p.grad.clone() for p in made.parameters() if p.grad is not None]
        assert len(gradients) == 14
        results.append([out.detach(), hidden.grad, *gradients])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


def test_tiles_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    from decant.kernels.pooling import latent

    layout = PackedLayout.from_lengths(LENGTHS, causal=False)
    hidden, weights = torch.randn(sum(LENGTHS), 8), block().weights()
    whole = pool_latent(hidden, layout, None, weights)
    monkeypatch.setattr(latent, "TILE_TOKENS", 3)
    torch.testing.assert_close(pool_latent(hidden, layout, None, weights), whole)


def test_keys_and_values_are_computed_once_and_again_after_a_change() -> None:
    made = block().requires_grad_(False)
    layout = PackedLayout.from_lengths(LENGTHS, causal=False)
    hidden = torch.randn(sum(LENGTHS), 8)
    with torch.inference_mode():
        before = made(hidden, layout)
        first = made._cached
        made(hidden, layout)
        assert made._cached is first
    torch.testing.assert_close(before, pool_latent(hidden, layout, None, made.weights()))
    made.tensors["latents"].data.add_(1.0)
    with torch.no_grad():
        made.tensors["latents"].mul_(2.0)
    after = made(hidden, layout)
    keys_values = latent_keys_values(made.weights())
    torch.testing.assert_close(after, pool_latent(hidden, layout, None, made.weights(), keys_values))
    assert not torch.allclose(after, before)


def test_a_frozen_block_lets_gradients_through_after_inference() -> None:
    made = block().requires_grad_(False)
    layout = PackedLayout.from_lengths([3], causal=False)
    with torch.inference_mode():
        made(torch.randn(3, 8), layout)
    hidden = torch.randn(3, 8, requires_grad=True)
    made(hidden, layout).sum().backward()
    assert hidden.grad is not None and hidden.grad.abs().sum() > 0


def test_saved_under_published_names_and_loaded_again(tmp_path: Path) -> None:
    made = block()
    made.save(tmp_path)
    assert "latent_attention_model.cross_attend_blocks.1.fn.net.2.bias" in load_file(tmp_path / "model.safetensors")
    again = LatentAttention(SPEC, 8)
    again.load(tmp_path)
    for name, value in made.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_weights_that_do_not_fit_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="takes 8 features, the model gives 16"):
        LatentAttention(SPEC, 16)
    made = block()
    with pytest.raises(ModelError, match="holds no model"):
        made.load(tmp_path)
    made.save(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    latents = state.pop("latent_attention_model.latents")
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="lacks the latent attention's latent_attention_model.latents"):
        made.load(tmp_path)
    save_file(state | {"latent_attention_model.latents": latents[:4].contiguous()}, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match=r"latents is \(4, 8\), the configuration says \(6, 8\)"):
        made.load(tmp_path)


def test_only_a_mean_can_follow_it() -> None:
    with pytest.raises(ModelError, match="pooling must be mean"):
        EncoderSpec(latent=SPEC, pooling="last")  # type: ignore[arg-type]
