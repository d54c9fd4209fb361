"""Every invariant holds on healthy encoders, and each has a planted fault that it catches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaAttention

from decant.embedder import Encoder, EncoderSpec, VerificationError, backbone, head, lean, saving
from decant.embedder.families import NOT_PLAIN
from decant.embedder.products import Product
from decant.embedder.spec import Attention, RouterSpec
from decant.embedder.tokenization import TextTokenizer, TokenizedTexts
from decant.embedder.verify import LEAK, future_leak, neighbour_leak, reference_parity, verify_encoder
from decant.kernels.attention import PackedLayout, interface

SPEC = EncoderSpec(prompts={"query": "query: "}, include_prompt=False, dimensions=(16,), max_tokens=48)
Patch = pytest.MonkeyPatch


def _failed(encoder: Encoder) -> set[str]:
    return {m.name for m in verify_encoder(encoder) if not m.passed}


def _patch_attention(patch: Patch, change: Callable[[PackedLayout, dict[str, Any]], PackedLayout]) -> None:
    """Let packed attention see another layout or other options than the model asked for."""
    honest = interface.attention

    def attention(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, **options: Any) -> Tensor:
        return honest(query, key, value, change(layout, options), **options)

    for module in (interface, lean):
        patch.setattr(module, "attention", attention)


def _patch_pooling(patch: Patch, change: Callable[[Tensor, PackedLayout], Tensor]) -> None:
    honest = head.Head.pool

    def pool(self: head.Head, hidden: Tensor, layout: PackedLayout, *args: Any, **options: Any) -> Tensor:
        changed = change(honest(self, hidden, layout, *args, **options), layout)
        return torch.nn.functional.normalize(changed, dim=-1) if options.get("normalize") else changed

    patch.setattr(head.Head, "pool", pool)


def causal_in_both_engines(patch: Patch) -> None:
    """The spec says bidirectional, the model is causal whoever computes it: the fault of METHODS 4.1."""
    honest = backbone.set_attention
    patch.setattr(backbone, "set_attention", lambda config, _: honest(config, Attention.CAUSAL))
    _patch_attention(patch, lambda layout, _: replace(layout, causal=True))


def causal_packed_attention(patch: Patch) -> None:
    _patch_attention(patch, lambda layout, _: replace(layout, causal=True))


def mask_dropped(patch: Patch) -> None:
    """The whole batch attends as one sequence."""
    _patch_attention(patch, lambda layout, _: PackedLayout.from_lengths([layout.total_tokens], causal=layout.causal))


def batches_taken_for_sorted(patch: Patch) -> None:
    """A text longer than the one before it is run together with it; `encode` never packs in this order."""

    def merge(layout: PackedLayout, _: dict[str, Any]) -> PackedLayout:
        lengths = [length for _, count, length in layout.runs for _ in range(count)]
        for i in range(1, len(lengths)):
            if lengths[i] > lengths[i - 1]:
                merged = [*lengths[: i - 1], lengths[i - 1] + lengths[i], *lengths[i + 1 :]]
                return PackedLayout.from_lengths(merged, causal=layout.causal).filled(layout.total_tokens)
        return layout

    _patch_attention(patch, merge)


def wrong_scale(patch: Patch) -> None:
    def scale(layout: PackedLayout, options: dict[str, Any]) -> PackedLayout:
        options["scale"] *= 1.1
        return layout

    _patch_attention(patch, scale)


def window_one_wider(patch: Patch) -> None:
    """What ModernBERT's attention is told; a probe shorter than the window cannot see it."""

    def widen(layout: PackedLayout, options: dict[str, Any]) -> PackedLayout:
        options["window"] += 1
        return layout

    _patch_attention(patch, widen)


def layer_that_does_not_attend(patch: Patch) -> None:
    honest = LlamaAttention.forward

    def forward(self: LlamaAttention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, None]:
        if self.layer_idx == 1:
            return torch.zeros_like(hidden_states), None
        return honest(self, hidden_states, *args, **kwargs)

    patch.setattr(LlamaAttention, "forward", forward)
    prepared_layer_that_does_not_attend(patch)


def prepared_layer_that_does_not_attend(patch: Patch) -> None:
    honest = lean._attend

    def attend(layer: Any, x: Tensor, *args: Any) -> Tensor:
        return x if layer.module.layer_idx == 1 else honest(layer, x, *args)

    patch.setattr(lean, "_attend", attend)


def norm_not_multiplied_in(patch: Patch) -> None:
    honest = Product.of
    patch.setattr(Product, "of", lambda linears, _=None: honest(linears))


def features_of_the_query_moved(patch: Patch) -> None:
    honest = Product.of

    def of(linears: list[Any], *scale: Tensor) -> Product:
        if len(linears) == 3:
            layer = torch.nn.Linear(linears[0].in_features, linears[0].out_features, bias=False)
            layer.weight = torch.nn.Parameter(linears[0].weight.roll(1, 0))
            linears = [layer, *linears[1:]]
        return honest(linears, *scale)

    patch.setattr(Product, "of", of)


def vector_depends_on_batch_mates(patch: Patch) -> None:
    _patch_pooling(patch, lambda pooled, layout: pooled + 1e-3 * layout.batch_size)


def vector_depends_on_thread(patch: Patch) -> None:
    other = threading.main_thread()
    _patch_pooling(patch, lambda pooled, _: pooled + (0 if threading.current_thread() is other else 1e-3))


def rows_in_sorted_order(patch: Patch) -> None:
    honest = Encoder.represent

    def represent(self: Encoder, tokenized: TokenizedTexts, *args: Any, **options: Any) -> Any:
        order = np.argsort([-len(ids) for ids in tokenized.ids], kind="stable")
        result = honest(self, tokenized, *args, **options)
        return replace(result, dense=result.dense[order])

    patch.setattr(Encoder, "represent", represent)


def prompt_pooled_in(patch: Patch) -> None:
    honest = TextTokenizer.__call__

    def tokenize(self: TextTokenizer, *args: Any, **kwargs: Any) -> TokenizedTexts:
        result = honest(self, *args, **kwargs)
        return replace(result, pool_from=np.zeros_like(result.pool_from))

    patch.setattr(TextTokenizer, "__call__", tokenize)


def one_prompt_token_pooled_in(patch: Patch) -> None:
    honest = TextTokenizer.__call__

    def tokenize(self: TextTokenizer, *args: Any, **kwargs: Any) -> TokenizedTexts:
        result = honest(self, *args, **kwargs)
        return replace(result, pool_from=np.maximum(result.pool_from - 1, 0))

    patch.setattr(TextTokenizer, "__call__", tokenize)


def not_normalised(patch: Patch) -> None:
    honest = head.Head.forward

    def forward(self: head.Head, *args: Any, **options: Any) -> Tensor:
        return honest(self, *args, **{**options, "normalize": False})

    patch.setattr(head.Head, "forward", forward)


def cut_without_normalising_again(patch: Patch) -> None:
    honest = head.Head.forward

    def forward(self: head.Head, *args: Any, **kwargs: Any) -> Tensor:
        *rest, dimensions = args
        return honest(self, *rest, None, **kwargs)[:, : self.width(dimensions)]

    patch.setattr(head.Head, "forward", forward)


def _patch_encode(patch: Patch, change: Callable[[dict[str, Any]], None], report: bool) -> None:
    honest = Encoder.encode

    def encode(self: Encoder, texts: Any, **options: Any) -> Any:
        change(options)
        result = honest(self, texts, **options)
        return result if report else replace(result, truncated=np.zeros_like(result.truncated))

    patch.setattr(Encoder, "encode", encode)


def truncation_not_reported(patch: Patch) -> None:
    _patch_encode(patch, lambda _: None, report=False)


def truncation_not_refused(patch: Patch) -> None:
    _patch_encode(patch, lambda options: options.update(truncate="end"), report=True)


def one_weight_altered_on_saving(patch: Patch) -> None:
    honest = saving.save_encoder

    def save_encoder(encoder: Encoder, folder: Path) -> None:
        honest(encoder, folder)
        state = load_file(folder / "model.safetensors")
        state["norm.weight"][3] *= 1.01
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})

    patch.setattr(saving, "save_encoder", save_encoder)


# Each fault, and the invariants it breaks. What leaks or reorders in every batch cannot but change vectors as well.
FAULTS: dict[Callable[[Patch], None], set[str]] = {
    causal_in_both_engines: {"future leak", "saved copy"},
    causal_packed_attention: {"future leak", "reference parity"},
    layer_that_does_not_attend: {"attention coverage"},
    batches_taken_for_sorted: {"neighbour leak"},
    mask_dropped: {"neighbour leak", "reference parity", "batch invariance"},
    wrong_scale: {"reference parity"},
    window_one_wider: {"window parity"},
    vector_depends_on_batch_mates: {"batch invariance"},
    vector_depends_on_thread: {"determinism"},
    rows_in_sorted_order: {"input order", "batch invariance"},
    prompt_pooled_in: {"instruction masking", "plain copy"},
    one_prompt_token_pooled_in: {"instruction masking"},
    not_normalised: {"unit norm"},
    cut_without_normalising_again: {"unit norm"},
    truncation_not_reported: {"truncation"},
    truncation_not_refused: {"truncation"},
    one_weight_altered_on_saving: {"saved copy"},
}
# Faults of the prepared layers alone, which only transformers' own forward can tell.
PREPARED_FAULTS: dict[Callable[[Patch], None], set[str]] = {
    prepared_layer_that_does_not_attend: {"attention coverage", "reference parity"},
    norm_not_multiplied_in: {"reference parity"},
    features_of_the_query_moved: {"reference parity"},
}
WINDOWED: dict[str, Any] = {"family": "mistral", "sliding_window": 16}
SEEN_AT_LOAD = {"future leak", "attention coverage", "neighbour leak", "reference parity"}


@pytest.fixture(params=["torch", "onednn"])
def layers(request: pytest.FixtureRequest, monkeypatch: Patch) -> str:
    """Whose layers serve: transformers' own, or the prepared ones."""
    monkeypatch.setenv("DECANT_KERNELS", f"layers={request.param}")
    return request.param


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
@pytest.mark.usefixtures("layers")
def test_fault_breaks_what_it_should(
    fault: Callable[[Patch], None], model_folder: Callable[..., Path], monkeypatch: Patch
) -> None:
    if fault is window_one_wider:
        monkeypatch.setenv("DECANT_KERNELS", "layers=torch")
    folder = model_folder(**(WINDOWED if fault is window_one_wider else {}))
    fault(monkeypatch)
    encoder = Encoder.load(folder, dtype="float32", spec=SPEC, verify=False)
    assert _failed(encoder) == FAULTS[fault]


@pytest.mark.parametrize("fault", PREPARED_FAULTS, ids=lambda fault: fault.__name__)
def test_prepared_layers_answer_to_transformers(
    fault: Callable[[Patch], None], new_model: Callable[..., Path], monkeypatch: Patch
) -> None:
    folder = new_model()
    state = load_file(folder / "model.safetensors")
    uneven = {name: x * torch.linspace(0.5, 1.5, len(x)) for name, x in state.items() if name.endswith("norm.weight")}
    save_file(state | uneven, folder / "model.safetensors", metadata={"format": "pt"})
    fault(monkeypatch)
    monkeypatch.setenv("DECANT_KERNELS", "layers=torch")
    assert _failed(Encoder.load(folder, dtype="float32", spec=SPEC)) == set()
    monkeypatch.setenv("DECANT_KERNELS", "layers=onednn")
    assert _failed(Encoder.load(folder, dtype="float32", spec=SPEC, verify=False)) == PREPARED_FAULTS[fault]
    with pytest.raises(VerificationError, match="breaks the invariant"):
        Encoder.load(folder, dtype="float32", spec=SPEC)


@pytest.mark.parametrize(
    "fault", [f for f, broken in FAULTS.items() if broken & SEEN_AT_LOAD], ids=lambda fault: fault.__name__
)
@pytest.mark.usefixtures("layers")
def test_loading_refuses_it(
    fault: Callable[[Patch], None], model_folder: Callable[..., Path], monkeypatch: Patch
) -> None:
    fault(monkeypatch)
    with pytest.raises(VerificationError, match="breaks the invariant .*; its vectors cannot be trusted") as caught:
        Encoder.load(model_folder(), dtype="float32", spec=SPEC)
    assert "\n" not in str(caught.value)


def test_llm2vec_qwen2_that_stayed_causal_is_refused(new_model: Callable[..., Path], monkeypatch: Patch) -> None:
    """LLM2Vec's Qwen2 never replaced the causal mask, so its bidirectional models were causal without a word."""
    folder = new_model("qwen2")
    (folder / "llm2vec_config.json").write_text('{"pooling_mode": "mean"}')
    assert Encoder.load(folder, dtype="float32").spec.attention is Attention.BIDIRECTIONAL
    causal_in_both_engines(monkeypatch)
    with pytest.raises(VerificationError, match="breaks the invariant 'future leak'"):
        Encoder.load(folder, dtype="float32")


@pytest.mark.parametrize("family", NOT_PLAIN)
def test_a_copy_that_sentence_transformers_reads_otherwise(
    family: str, new_model: Callable[..., Path], monkeypatch: Patch
) -> None:
    encoder = Encoder.load(new_model(family), dtype="float32", spec=EncoderSpec(max_tokens=48))
    assert _failed(encoder) == set()
    monkeypatch.setattr(saving, "NOT_PLAIN", {})
    assert _failed(encoder) == {"plain copy"}


def test_every_invariant_has_its_fault(encoder_of: Callable[..., Encoder]) -> None:
    # A sparse head's and a router's faults are planted in heads/, that of a plain copy above.
    names = {m.name for m in verify_encoder(encoder_of(SPEC))} - {"sparse pooling", "router weights", "plain copy"}
    assert names <= set.union(*FAULTS.values())
    for name in names - {"input order", "future leak"}:  # a model that is causal is so where it is saved
        assert {name} in FAULTS.values(), f"no fault breaks {name} alone"


HEALTHY: dict[str, tuple[EncoderSpec, str, str]] = {
    "bidirectional-mean": (SPEC, "llama", "byte"),
    "causal-last": (EncoderSpec(attention="causal", pooling="last", append_eos=True, max_tokens=48), "qwen3", "byte"),
    "not-normalised": (EncoderSpec(normalize=False, pooling="max", max_tokens=48), "gemma2", "metaspace"),
    "encoder": (EncoderSpec(pooling="first", max_tokens=48), "bert", "wordpiece"),
    "equal-length": (EncoderSpec(max_tokens=48), "bloom", "byte-eos"),
    "counted-prompt": (replace(SPEC, prompt_span="tokens"), "mistral", "wordpiece"),
    "weighted": (EncoderSpec(pooling="weighted_mean", max_tokens=12), "olmoe", "byte"),
    "router": (
        EncoderSpec(attention="causal", pooling="last", max_tokens=48, router=RouterSpec("mean")),
        "qwen3_moe",
        "metaspace",
    ),
    "short": (EncoderSpec(max_tokens=4), "llama", "wordpiece"),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", HEALTHY)
def test_healthy_encoder_passes(name: str, dtype: str, model_folder: Callable[..., Path]) -> None:
    spec, family, tokenizer = HEALTHY[name]
    encoder = Encoder.load(model_folder(family, tokenizer), dtype=dtype, spec=spec)
    results = verify_encoder(encoder)
    assert len({m.name for m in results}) == len(results) >= 11
    assert not [m for m in results if not m.passed]


def test_default_model_passes_at_load() -> None:
    encoder = Encoder.load(dtype="float32")
    assert future_leak(encoder).value > LEAK


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_states_that_are_no_numbers_pass_nothing(attention: str, new_model: Callable[..., Path]) -> None:
    encoder = Encoder.load(new_model(), dtype="float32", spec=EncoderSpec(attention=attention, max_tokens=48))
    encoder.backbone.model.norm.weight.fill_(float("nan"))
    assert not any(check(encoder).passed for check in (future_leak, neighbour_leak, reference_parity))
