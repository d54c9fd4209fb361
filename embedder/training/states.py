"""The states of packed texts and their means: the forward of the distil step and of its development scores."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from .packed_texts import PackedTexts


def hidden_states(model: LlamaForCausalLM, texts: PackedTexts) -> Tensor:
    """Last hidden states, (total_tokens, D) float32, bidirectional; bfloat16 autocast where gradients flow."""
    layout = texts.layout(causal=False)
    with torch.autocast(model.device.type, torch.bfloat16, enabled=torch.is_grad_enabled()):
        output = model.model(
            input_ids=texts.input_ids[None],
            position_ids=layout.position_ids()[None],
            use_cache=False,
            packed=layout,
        )
    return output.last_hidden_state[0].float()


def text_means(states: Tensor, texts: PackedTexts) -> Tensor:
    """Mean of each text's states, (texts, D), not normalised, in the order asked for; states (total_tokens, D)."""
    layout = texts.layout(causal=False)
    sums = states.new_zeros(layout.batch_size, states.shape[1]).index_add(0, layout.sequence_ids(), states)
    return (sums / layout.lengths()[:, None])[texts.restore]
