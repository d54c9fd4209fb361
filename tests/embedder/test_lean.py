from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from decant.embedder import Encoder, EncoderSpec, products
from decant.embedder.errors import ModelError, VerificationError
from decant.embedder.lean import FAMILIES, LeanDecoder, few_sizes, refusal
from decant.embedder.measuring import random_ids
from decant.embedder.products import Int8Product, Product, unavailable
from decant.embedder.verify import verify_encoder
from decant.kernels.dispatch import KernelError

EncoderOf = Callable[..., Encoder]
NO_WINDOW: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "qwen2": {"use_sliding_window": False, "layer_types": ["full_attention"] * 2},
    "qwen3": {"use_sliding_window": False, "layer_types": ["full_attention"] * 2},
}
CASES: list[tuple[str, dict[str, Any]]] = [
    *((family, NO_WINDOW.get(family, {})) for family in FAMILIES),
    ("llama", {"attention_bias": True, "mlp_bias": True}),
    ("llama", {"num_key_value_heads": 1}),
]


def states(encoder: Encoder, lengths: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Hidden states of prepared layers and of transformers' own."""
    rows = random_ids(encoder, lengths)
    layout = encoder.backbone.layout([len(row) for row in rows])
    with torch.inference_mode():
        ours = LeanDecoder(encoder.backbone.model)(torch.cat(rows), layout)
        with encoder.backbone.transformers_attention():
            theirs = encoder.backbone(torch.cat(rows), layout)
    return ours, theirs


def shaken(encoder: Encoder) -> Encoder:
    """Give every weight a value of its own: norms of ones and biases of zeros would hide a mistake."""
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in encoder.backbone.model.parameters():
            weight.add_(torch.randn_like(weight) * 0.2)
    return encoder


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize(("family", "config"), CASES, ids=str)
def test_same_states_as_transformers(
    new_model: Callable[..., Any], family: str, config: dict[str, Any], attention: str
) -> None:
    spec = EncoderSpec(attention=attention)  # type: ignore[arg-type]
    encoder = shaken(Encoder.load(new_model(family, **config), dtype="float32", spec=spec, verify=False))
    assert refusal(encoder.backbone.model) is None
    ours, theirs = states(encoder, (13, 7, 7, 1))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_as_exact_as_transformers(encoder_of: EncoderOf) -> None:
    exact = shaken(Encoder.load(encoder_of().path, dtype="float32", verify=False))
    half = shaken(Encoder.load(encoder_of().path, dtype="float32", verify=False))
    half.backbone.model.bfloat16()
    _, reference = states(exact, (13, 7, 7, 1))
    ours, theirs = states(half, (13, 7, 7, 1))
    errors = [(x.float() - reference).abs().mean().item() for x in (ours, theirs)]
    assert errors[0] <= 1.5 * errors[1]


@pytest.mark.parametrize(
    ("family", "config", "reason"),
    [
        ("gemma2", {}, "gemma2 is none of"),
        ("llama", {"hidden_act": "gelu"}, "activation is gelu"),
        ("mistral", {"sliding_window": 4}, "sliding window"),
    ],
)
def test_says_what_it_cannot_prepare(encoder_of: EncoderOf, family: str, config: dict[str, Any], reason: str) -> None:
    assert reason in str(refusal(encoder_of(family=family, **config).backbone.model))


def test_foreign_layers_are_refused(new_model: Callable[..., Any]) -> None:
    model = Encoder.load(new_model(), dtype="float32").backbone.model
    model.layers[0].mlp.up_proj = nn.Bilinear(2, 2, 2)
    assert "another kind, Bilinear" in str(refusal(model))


def test_hooks_are_heard(new_model: Callable[..., Any]) -> None:
    encoder = Encoder.load(new_model(), dtype="float32")
    before = encoder.encode("a text").dense
    heard: list[Tensor] = []
    handle = encoder.backbone.model.layers[0].mlp.register_forward_hook(lambda *call: heard.append(call[2]))
    while_listening = encoder.encode("a text").dense
    handle.remove()
    assert len(heard) == 1
    np.testing.assert_allclose(while_listening, before, atol=1e-6)
    assert encoder.encode("a text").dense.tobytes() == before.tobytes()
    assert len(heard) == 1


def test_choice_can_be_overridden(
    model_folder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("DECANT_KERNELS", "layers=onednn")
    with pytest.raises(KernelError, match="onednn implementation of layers cannot run: gemma2 is none of"):
        Encoder.load(model_folder("gemma2"), dtype="float32")
    monkeypatch.setenv("DECANT_KERNELS", "layers=torch")
    encoder = Encoder.load(model_folder(), dtype="float32")
    monkeypatch.setattr(LeanDecoder, "__call__", None)
    encoder.encode("a text")
    monkeypatch.setenv("DECANT_KERNELS", "layers=triton")
    with pytest.raises(KernelError, match="one of attention, cross_attention"):
        Encoder.load(model_folder(), dtype="float32")


def test_changed_weights_are_noticed(new_model: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.load(new_model(), dtype="float32")
    before = encoder.encode("a text").dense
    with torch.no_grad():
        encoder.backbone.model.layers[0].mlp.down_proj.weight.mul_(3)
    with caplog.at_level(logging.INFO, "decant"):
        after = encoder.encode("a text").dense
    assert before is not None and after is not None
    assert abs(after - before).max() > 1e-4
    assert "weights have changed" in caplog.text


def test_gradients_go_through_the_model_itself(new_model: Callable[..., Any]) -> None:
    encoder = Encoder.load(new_model(), dtype="float32")
    encoder.backbone.model.requires_grad_(True)
    rows = random_ids(encoder, (5, 3))
    encoder.backbone(torch.cat(rows), encoder.backbone.layout([5, 3])).sum().backward()
    assert encoder.backbone.model.layers[0].mlp.down_proj.weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    first, second = (nn.Linear(24, n, bias=n == 8).to(dtype).requires_grad_(False) for n in (8, 5))
    scale, x = torch.rand(24) + 0.5, torch.randn(7, 24).to(dtype)
    with torch.inference_mode():
        product = Product.of([first, second], scale)
        want = torch.cat([layer.float()(x.float() * scale) for layer in (first, second)], 1)
        tolerance = {"rtol": 2e-2, "atol": 3e-2} if dtype is torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
        for got, expected in (
            (product(x), want),
            (product.silu(x), nn.functional.silu(want)),
        ):
            torch.testing.assert_close(got.float(), expected, **tolerance)


vnni = pytest.mark.skipif(unavailable(torch.int8) is not None, reason="this processor has no VNNI")


@vnni
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [False, True])
def test_int8_products(dtype: torch.dtype, bias: bool) -> None:
    torch.manual_seed(0)
    first, second = (nn.Linear(37, n, bias=bias and n == 8).to(dtype).requires_grad_(False) for n in (8, 5))
    scale, x = torch.rand(37) + 0.5, torch.randn(7, 37).to(dtype)
    x[2], x[3] = 0, x[3] * 1e4
    with torch.inference_mode():
        product = Int8Product.of([first, second], scale)
        unit = x.float() * (x.float().square().mean(1, keepdim=True) + 1e-5).rsqrt()
        want = torch.cat([layer.float()(unit * scale) for layer in (first, second)], 1)
        codes = product.normed(x, 1e-5)
        plain = torch.cat([layer.float()(x.float() * scale) for layer in (first, second)], 1)
        for got, expected in (
            (product(codes), want),
            (product.silu(codes), nn.functional.silu(want)),
            (product(product.entering(x))[:3], plain[:3]),
        ):
            torch.testing.assert_close(got.float(), expected, rtol=0.05, atol=0.06)
        alone = torch.cat([product(product.normed(row, 1e-5)) for row in x.split(1)])
        assert torch.equal(alone, product(codes)), "a row must not depend on its neighbours"
        assert product(product.entering(torch.full((1, 37), float("nan"), dtype=dtype))).isnan().all()
        assert not product(product.entering(torch.full((1, 37), float("inf"), dtype=dtype))).isfinite().any()


@vnni
@pytest.mark.parametrize("folder", ["llama", "qwen2", "qwen3"])
def test_int8_encoder(folder: str, model_folder: Callable[..., Any]) -> None:
    path = model_folder(folder, **NO_WINDOW.get(folder, {}))
    texts = ["a river", "The committee met on Tuesday and discussed the budget for three hours.", "x"]
    exact, coded = (Encoder.load(path, device="cpu", dtype=dtype) for dtype in ("float32", "int8"))
    assert coded.backbone.number_format == "int8"
    assert not [m for m in verify_encoder(coded) if not m.passed]
    cosines = (exact.encode(texts).dense * coded.encode(texts).dense).sum(1)
    assert cosines.min() > 0.999
    assert cosines.max() < 1


@vnni
def test_the_shipped_model_is_refused_in_int8_for_its_states_move() -> None:
    with pytest.raises(VerificationError, match="reference parity"):
        Encoder.load(device="cpu", dtype="int8")


def test_int8_that_cannot_be_is_refused(model_folder: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="no int8 for gemma2 here: gemma2 is none of"):
        Encoder.load(model_folder("gemma2"), dtype="int8")
    monkeypatch.setattr(products, "_has", lambda _: False)
    with pytest.raises(ModelError, match="no int8 for llama here: this processor has no VNNI"):
        Encoder.load(model_folder(), dtype="int8")


def test_products_are_compiled_for_few_numbers_of_rows() -> None:
    sizes = [few_sizes(rows) for rows in range(5000)]
    assert all(rows <= size <= max(rows * 17 / 16 + 8, 8) for rows, size in enumerate(sizes))
    assert sizes == sorted(sizes)
    assert [few_sizes(size) for size in sizes] == sizes
    assert len(set(sizes)) < 110
    assert few_sizes(0) == 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_fills_a_batch_up_is_never_seen(
    encoder_of: EncoderOf, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    if reason := unavailable(getattr(torch, dtype)):
        pytest.skip(reason)
    encoder = Encoder.load(encoder_of().path, dtype=dtype, verify=False)
    met: list[int] = []
    forward = LeanDecoder.__call__

    def watched(self: LeanDecoder, ids: Tensor, layout: Any) -> Tensor:
        met.append(len(ids))
        return forward(self, ids, layout)

    monkeypatch.setattr(LeanDecoder, "__call__", watched)
    texts = ["a", "two words", "a sentence of nine words that is read here"]
    alone = [encoder.encode(text).dense[0] for text in texts]
    together = encoder.encode(texts)
    assert sum(together.tokens) not in met
    assert {few_sizes(rows) for rows in met} == set(met)
    assert together.dense.shape == (3, encoder.dimension)
    for row, own in zip(together.dense, alone, strict=True):
        assert float(row @ own) == pytest.approx(1, abs=1e-6 if dtype == "float32" else 1e-3)
