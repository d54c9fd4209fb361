"""In half precision two computations of a mixture of experts are compared under the same choice of experts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.measuring import hidden_states
from decant.embedder.routing import recorded, repeated
from decant.embedder.verify import reference_parity
from decant.kernels.attention import PackedLayout, interface

FAMILIES = ["olmoe", "qwen2_moe", "mixtral", "deepseek_v2", "deepseek_v3", "gpt_oss"]
SPEC = EncoderSpec(attention="causal", pooling="last", max_tokens=48)


@pytest.mark.parametrize("family", FAMILIES)
def test_routers_say_again_what_they_said(family: str, encoder_of: Callable[..., Encoder]) -> None:
    encoder = encoder_of(SPEC, family)
    first, second, other = (torch.arange(start, start + length) for start, length in ((50, 7), (90, 3), (130, 10)))
    with recorded(encoder.backbone.model) as said:
        hidden_states(encoder, [first, second])
    with recorded(encoder.backbone.model) as untold:
        hidden_states(encoder, [other])
    with repeated(said), recorded(encoder.backbone.model) as again:
        for row in (other[:7], other[7:]):
            hidden_states(encoder, [row])
    assert len(said) == len(again) >= 1
    for (_, [once]), (_, twice), (_, [own]) in zip(said, again, untold, strict=True):
        assert [len(parts[0].flatten(0, -2)) for parts in twice] == [7, 3]
        for number, part in enumerate(once):
            joined = torch.cat([parts[number].flatten(0, -2) for parts in twice])
            assert torch.equal(joined, part.flatten(0, -2)[:10])
        assert not torch.equal(once[0].flatten(0, -2)[:10], own[0].flatten(0, -2)[:10])
    with recorded(encoder.backbone.model) as after:
        hidden_states(encoder, [other])
    assert all(torch.equal(a[0][0], b[0][0]) for (_, a), (_, b) in zip(after, untold, strict=True))


def test_a_model_without_experts_says_nothing(encoder_of: Callable[..., Encoder]) -> None:
    with recorded(encoder_of(SPEC).backbone.model) as said:
        assert said == []


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("family", ["olmoe", "qwen3_moe", "gpt_oss"])
def test_roundings_that_choose_another_expert_are_no_fault(
    family: str, seed: int, new_model: Callable[..., Path]
) -> None:
    """With weights of this size, every third of these models has a token that rounding sends to another expert."""
    folder = new_model(family, seed=seed, initializer_range=0.2)
    assert reference_parity(Encoder.load(folder, dtype="bfloat16", spec=SPEC, verify=False)).passed


@pytest.mark.parametrize("fault", ["scale", "causality"])
def test_faults_of_attention_are_still_found(
    fault: str, new_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, honest = new_model("olmoe", initializer_range=0.2), interface.attention

    def attention(query: Tensor, key: Tensor, value: Tensor, layout: PackedLayout, **options: object) -> Tensor:
        if fault == "scale":
            options["scale"] = 1.1 * float(options["scale"])  # type: ignore[arg-type]
        else:
            layout = replace(layout, causal=False)
        return honest(query, key, value, layout, **options)

    monkeypatch.setattr(interface, "attention", attention)
    assert not reference_parity(Encoder.load(folder, dtype="bfloat16", spec=SPEC, verify=False)).passed
