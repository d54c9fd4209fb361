"""Router vectors against transformers' own router logits, and what must not influence them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoModel

from decant.embedder import Encoder, EncoderSpec, InputError, ModelError, UnsupportedModelError
from decant.embedder.calibration import measure
from decant.embedder.moee import combined
from decant.embedder.router import RouterHead
from decant.embedder.spec import RouterSpec
from decant.embedder.verify import verify_encoder

TEXTS = ["Rivers carry water from the mountains to the sea.", "short text", "a", "words and words and words " * 3]
RAW = EncoderSpec(attention="causal", pooling="last", max_tokens=48, router=RouterSpec(normalize=False))
FAMILIES = ["olmoe", "qwen2_moe", "qwen3_moe", "mixtral", "deepseek_v2", "deepseek_v3", "gpt_oss", "granitemoe"]
Vectors = NDArray[np.float32]


def routers(encoder: Encoder, texts: list[str], **options: Any) -> Vectors:
    router = encoder.encode(texts, outputs=["router"], **options).router
    assert router is not None
    return router


@torch.no_grad()
def plainly(folder: Path, encoder: Encoder, texts: list[str], *, mean: bool = False) -> Vectors:
    """The softmax of transformers' own router logits, each text alone, all layers side by side."""
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    rows: list[torch.Tensor] = []
    for text in texts:
        ids = torch.tensor([encoder.tokenizer.encode(text).ids])
        said = model(input_ids=ids, output_router_logits=True).router_logits
        layers = [layer.reshape(ids.shape[1], -1).float().softmax(-1) for layer in said]
        assert not torch.allclose(said[0].sum(-1), torch.ones(()))
        rows.append(torch.cat([layer.mean(0) if mean else layer[-1] for layer in layers]))
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_agrees_with_transformers_and_does_not_depend_on_the_batch(
    family: str, model_folder: Callable[..., Path]
) -> None:
    folder = model_folder(family)
    encoder = Encoder.load(folder, dtype="float32", spec=RAW)
    assert encoder.outputs == ("dense", "router")
    together = routers(encoder, TEXTS)
    assert np.abs(together - plainly(folder, encoder, TEXTS)).max() <= 1e-5
    assert np.abs(together - np.concatenate([routers(encoder, [text]) for text in TEXTS])).max() <= 1e-6
    assert np.allclose(together.sum(1), together.shape[1] // 4)  # each layer's four experts add up to one
    assert together.std(0).max() > 1e-3
    averaged = Encoder.load(folder, dtype="float32", spec=replace(RAW, router=RouterSpec("mean", normalize=False)))
    assert np.abs(routers(averaged, TEXTS) - plainly(folder, encoder, TEXTS, mean=True)).max() <= 1e-5


def test_unpooled_tokens_are_left_out(encoder_of: Callable[..., Encoder]) -> None:
    spec = replace(RAW, prompts={"query": "query: "}, include_prompt=False, router=RouterSpec("mean"))
    encoder = encoder_of(spec, "olmoe")
    with_prompt, all_pooled = (
        routers(one, ["sea"], kind="query")
        for one in (encoder, encoder_of(replace(spec, include_prompt=True), "olmoe"))
    )
    assert np.abs(with_prompt - all_pooled).max() > 1e-4


def test_bidirectional_routers_see_the_future(encoder_of: Callable[..., Encoder]) -> None:
    causal, both = (encoder_of(replace(RAW, attention=attention), "olmoe") for attention in ("causal", "bidirectional"))
    assert np.abs(routers(causal, TEXTS) - routers(both, TEXTS)).max() > 1e-4


def test_dense_and_router_come_from_one_pass(encoder_of: Callable[..., Encoder]) -> None:
    encoder = encoder_of(RAW, "olmoe")
    both = encoder.encode(TEXTS, outputs=["dense", "router"])
    assert both.dense is not None and np.array_equal(both.dense, encoder.encode(TEXTS).dense)
    assert both.router is not None and np.array_equal(both.router, routers(encoder, TEXTS))
    assert encoder.encode(TEXTS).router is None
    nothing = encoder.encode([], outputs=["router"]).router
    assert nothing is not None and nothing.shape == (0, 8)


def test_threads_hear_their_own_batch(encoder_of: Callable[..., Encoder]) -> None:
    encoder = encoder_of(RAW, "olmoe")
    expected = [routers(encoder, [text]) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            for got, want in zip(pool.map(lambda text: routers(encoder, [text]), TEXTS), expected, strict=True):
                assert np.array_equal(got, want)


class TestCalibration:
    def test_standardises_by_stored_statistics(self, encoder_of: Callable[..., Encoder], tmp_path: Path) -> None:
        spec = replace(RAW, router=RouterSpec())
        plain = encoder_of(RAW, "olmoe")
        encoder = encoder_of(spec, "olmoe").calibrated(TEXTS * 2)
        raw, raw_dense = routers(plain, TEXTS * 2), encoder_of(replace(RAW, normalize=False), "olmoe").encode(TEXTS * 2)
        for name, given in (("router", raw), ("dense", raw_dense.dense)):
            z = (given - given.mean(0)) / (given.std(0, ddof=1) + 1e-8)
            expected = (z / np.linalg.norm(z, axis=1, keepdims=True))[: len(TEXTS)]
            got = getattr(encoder.encode(TEXTS, outputs=["dense", "router"]), name)
            assert np.abs(got - expected).max() <= 1e-5
        encoder.save(tmp_path / "saved")
        again = Encoder.load(tmp_path / "saved", dtype="float32")
        assert again.spec.router == RouterSpec(calibrated=True) and again.spec.standardize
        assert np.array_equal(routers(again, TEXTS), routers(encoder, TEXTS))
        other = encoder_of(spec, "olmoe").calibrated(TEXTS[:2])
        assert len({encoder.fingerprint, other.fingerprint, encoder_of(spec, "olmoe").fingerprint}) == 3

    def test_a_text_alone_is_no_zero_vector(self, encoder_of: Callable[..., Encoder]) -> None:
        encoder = encoder_of(replace(RAW, router=RouterSpec()), "olmoe").calibrated(TEXTS)
        alone = np.concatenate([routers(encoder, [text]) for text in TEXTS])
        assert np.abs(alone - routers(encoder, TEXTS)).max() <= 1e-5 and np.abs(alone).max() > 0.1

    def test_statistics_in_parts_equal_those_at_once(self) -> None:
        rows = np.random.default_rng(0).normal(3, 2, (50, 7)).astype(np.float32)
        rows[:, 0] = 1.5
        measured = measure(iter([rows[:1], rows[1:20], rows[20:20], rows[20:]]))
        assert np.allclose(measured.mean, rows.mean(0), atol=1e-6)
        assert np.allclose(measured.std, rows.std(0, ddof=1), atol=1e-6)
        assert torch.equal(measured.apply(torch.from_numpy(rows + 9))[:, 0], torch.zeros(50))

    def test_what_it_cannot_do_is_refused(self, encoder_of: Callable[..., Encoder], tmp_path: Path) -> None:
        encoder = encoder_of(RAW, "olmoe")
        with pytest.raises(InputError, match="at least 2 texts, not 1"):
            encoder.calibrated(["one"])
        with pytest.raises(InputError, match="add a router to the spec"):
            encoder_of(replace(RAW, router=None), "olmoe").calibrated(TEXTS)
        with pytest.raises(ModelError, match="has no calibration"):
            Encoder.load(encoder.path, dtype="float32", spec=replace(RAW, router=RouterSpec(calibrated=True)))


class TestVerification:
    @pytest.mark.parametrize("family", ["olmoe", "deepseek_v3"])
    def test_healthy_calibrated_encoder_passes(self, family: str, encoder_of: Callable[..., Encoder]) -> None:
        encoder = encoder_of(replace(RAW, router=RouterSpec()), family).calibrated(TEXTS)
        assert [m for m in verify_encoder(encoder) if not m.passed] == []

    def test_vectors_standardised_by_their_batch_fail(
        self, encoder_of: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What MoEE's published code does, batches of one included."""
        honest = RouterHead.__call__

        def by_batch(self: RouterHead, *args: Any, **options: Any) -> torch.Tensor:
            rows = honest(self, *args, **options)
            if len(rows) == 1:  # its deviation is NaN, which they replace by 0
                return torch.zeros_like(rows)
            return (rows - rows.mean(0)) / (rows.std(0) + 1e-8)

        encoder = encoder_of(replace(RAW, router=RouterSpec()), "olmoe")
        monkeypatch.setattr(RouterHead, "__call__", by_batch)
        assert {m.name for m in verify_encoder(encoder) if not m.passed} >= {"batch invariance", "router weights"}

    def test_softmax_taken_twice_fails(
        self, encoder_of: Callable[..., Encoder], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        honest = RouterHead.__call__

        def twice(self: RouterHead, heard: list[list[torch.Tensor]], *args: Any, **options: Any) -> torch.Tensor:
            return honest(self, [[part.softmax(-1) for part in parts] for parts in heard], *args, **options)

        encoder = encoder_of(RAW, "olmoe")
        monkeypatch.setattr(RouterHead, "__call__", twice)
        assert {m.name for m in verify_encoder(encoder) if not m.passed} == {"router weights"}


def test_what_has_no_routers_is_refused(model_folder: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match="llama has no routers to listen to"):
        Encoder.load(model_folder("llama"), dtype="float32", spec=RAW)
    with pytest.raises(ModelError, match="router pooling is last or mean, not max"):
        RouterSpec("max")
    with pytest.raises(ModelError, match="leaves nothing to give out"):
        EncoderSpec(pooling="none")


def test_router_only(encoder_of: Callable[..., Encoder]) -> None:
    encoder = encoder_of(EncoderSpec(attention="causal", pooling="none", max_tokens=48, router=RouterSpec()), "olmoe")
    assert encoder.outputs == ("router",) and encoder.dimension == 0
    result = encoder.encode(TEXTS)
    assert result.dense is None and result.router is not None
    assert np.allclose(np.linalg.norm(result.router, axis=1), 1)
    with pytest.raises(InputError, match="makes no dense vectors"):
        encoder.encode(TEXTS, dimensions=8)


@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_gradients_reach_the_routers(pooling: str, model_folder: Callable[..., Path]) -> None:
    encoder = Encoder.load(model_folder("olmoe"), dtype="float32", spec=replace(RAW, router=RouterSpec(pooling)))
    head, backbone = encoder.router_head, encoder.backbone
    assert isinstance(head, RouterHead)
    backbone.model.requires_grad_(True)
    with head.listening() as heard:
        backbone(torch.arange(20, 30), layout := backbone.layout([6, 4]))
    head(heard, layout, None)[:, 0].sum().backward()
    gates = [p for name, p in backbone.model.named_parameters() if name.endswith("gate.weight")]
    assert gates and all(gate.grad is not None and gate.grad.abs().max() > 0 for gate in gates)


class TestCombination:
    @pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 2.0])
    def test_sum_weighs_two_cosines_on_the_querys_side(self, alpha: float, encoder_of: Callable[..., Encoder]) -> None:
        encoder = encoder_of(replace(RAW, router=RouterSpec(), normalize=False), "olmoe")
        both = encoder.encode(TEXTS, outputs=["dense", "router"])
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (both.dense, both.router)]
        expected = unit[0] @ unit[0].T + alpha * (unit[1] @ unit[1].T)
        scores = combined(both, "sum", alpha=alpha, query=True) @ combined(both, "sum", alpha=alpha).T
        assert np.abs(scores - expected).max() <= 1e-5

    def test_concat_is_both_side_by_side(self, encoder_of: Callable[..., Encoder]) -> None:
        both = encoder_of(RAW, "olmoe").encode(TEXTS, outputs=["dense", "router"])
        assert np.array_equal(combined(both, "concat"), np.concatenate([both.dense, both.router], axis=1))

    def test_what_makes_no_sense_is_refused(self, encoder_of: Callable[..., Encoder]) -> None:
        encoder = encoder_of(RAW, "olmoe")
        both = encoder.encode(TEXTS, outputs=["dense", "router"])
        with pytest.raises(InputError, match="needs both parts"):
            combined(encoder.encode(TEXTS))
        with pytest.raises(InputError, match="unknown combination 'max': choose concat or sum"):
            combined(both, "max")
        with pytest.raises(InputError, match="alpha must be at least 0, not -1"):
            combined(both, alpha=-1)
