"""Every way to pool is differentiable, through prompts of every shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from decant.embedder import Encoder, EncoderSpec
from decant.embedder.head import Head
from decant.embedder.prompts import apply_rule
from decant.embedder.spec import Pooling
from decant.kernels.attention import PackedLayout

POOLINGS = [pooling for pooling in Pooling if pooling is not Pooling.NONE]


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("masked", [False, True])
def test_gradient_of_a_pooling(pooling: Pooling, masked: bool) -> None:
    """Against central differences; only kept tokens get any."""
    layout = PackedLayout.from_lengths([5, 3, 3, 1], causal=True)
    keep = torch.tensor([0, 0, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1]).bool() if masked else None
    hidden = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    target = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    head = Head(EncoderSpec(pooling=pooling), 6)

    def loss(states: Tensor) -> Tensor:
        return (head(states, layout, keep) * target).sum()

    (gradient,) = torch.autograd.grad(loss(hidden), hidden)
    for token in range(12):
        step = torch.zeros(12, 6)
        step[token] = torch.randn(6, generator=torch.Generator().manual_seed(token)) * 1e-2
        slope = (loss(hidden.detach() + step) - loss(hidden.detach() - step)) / 2
        assert abs(float(slope - (gradient * step).sum())) <= 2e-4
    if keep is not None:
        assert not gradient[~keep].any()


@pytest.mark.parametrize("rule", ["echo", "prompt-eol", "bge-en-icl", "gritlm", "nv-embed"])
def test_gradients_reach_the_embeddings_through_a_prompt(rule: str, encoder_of: Callable[..., Encoder]) -> None:
    """Where a prompt is attended to and not pooled, its tokens still move the vector."""
    spec = replace(apply_rule(rule, EncoderSpec()), max_tokens=512)
    encoder = encoder_of(spec, "llama", "metaspace", max_position_embeddings=512)
    task = "Find it" if "{instruction}" in spec.prompts["query"] else None
    tokenized = encoder.tokenize(["the sea", "a text"], "query", task)
    table = encoder.backbone.model.get_input_embeddings().weight.requires_grad_()
    layout = encoder.backbone.layout([len(ids) for ids in tokenized.ids])
    ids = torch.cat([torch.from_numpy(row).long() for row in tokenized.ids])
    start = torch.from_numpy(tokenized.pool_from)
    keep = layout.position_ids() >= start[layout.sequence_ids()]
    vectors = encoder.head(encoder.backbone(ids, layout), layout, keep)
    (gradient,) = torch.autograd.grad(vectors[:, 0].sum(), table)
    table.requires_grad_(False)
    assert torch.isfinite(gradient).all() and gradient[ids.unique()].abs().amax(1).min() > 0
