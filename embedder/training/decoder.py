"""The decoder that is trained: a stock Llama on a trained token table, its residual branches near zero at the start."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from ...kernels.attention import register
from .packed_texts import PackedTexts
from .recipe import LmRecipe

# Far below the token vectors (mean square about 1), far above the 1e-4 that proves that attention looks both ways.
_BRANCH_STD = 2e-3


def build_decoder(
    table: NDArray[np.float32], tokenizer: PreTrainedTokenizerBase, norm_eps: float, recipe: LmRecipe
) -> LlamaForCausalLM:
    """A causal decoder that adds next to nothing to the token table; (V, D) float32 is its tied embedding."""
    torch.manual_seed(recipe.seed)
    config = LlamaConfig(
        vocab_size=table.shape[0],
        hidden_size=table.shape[1],
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        max_position_embeddings=recipe.max_tokens,
        rms_norm_eps=norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": recipe.rope_theta},
        initializer_range=table.shape[1] ** -0.5,
        tie_word_embeddings=True,
        use_cache=False,
        pad_token_id=cast(int, tokenizer.pad_token_id),
        bos_token_id=cast(int, tokenizer.bos_token_id),
        eos_token_id=cast(int, tokenizer.eos_token_id),
    )
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(register())
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    with torch.no_grad():
        embedding.weight.copy_(torch.from_numpy(table))
        for branch in residual_outputs(model):
            branch.weight.normal_(std=_BRANCH_STD)
        model.model.norm.weight.fill_(_output_scale(embedding.weight, norm_eps))
    return model


def _output_scale(table: Tensor, norm_eps: float) -> float:
    """The final norm's weight that makes the mean logit of a token for itself 1.

    The head is tied to vectors whose size is their weight in a mean, not fit for logits. The direction of an encoder's
    vector does not depend on this factor.
    """
    mean_squares = table.square().mean(1)
    own = table.shape[1] * mean_squares * torch.rsqrt(mean_squares + norm_eps)
    return 1.0 / own.mean().item()


def residual_outputs(model: LlamaForCausalLM) -> Iterator[nn.Linear]:
    """The projections that write into the residual stream, two a layer."""
    for name, module in model.named_modules():
        if name.endswith(("self_attn.o_proj", "mlp.down_proj")):
            yield cast(nn.Linear, module)


def hidden_states(model: LlamaForCausalLM, texts: PackedTexts, *, causal: bool) -> Tensor:
    """Last hidden states, (total_tokens, D), of packed texts; bfloat16 autocast where gradients flow."""
    layout = texts.layout(causal=causal)
    with torch.autocast("cpu", torch.bfloat16, enabled=torch.is_grad_enabled()):
        output = model.model(
            input_ids=texts.input_ids[None],
            position_ids=layout.position_ids()[None],
            use_cache=False,
            packed=layout,
        )
    return output.last_hidden_state[0]


def mean_vectors(model: LlamaForCausalLM, texts: PackedTexts) -> Tensor:
    """Mean hidden state of each text, (texts, D) float32, not normalised, in the order asked for."""
    states = hidden_states(model, texts, causal=False).float()
    layout = texts.layout(causal=False)
    sums = states.new_zeros(layout.batch_size, states.shape[1]).index_add(0, layout.sequence_ids(), states)
    return (sums / layout.lengths()[:, None])[texts.restore]


def next_token_loss(model: LlamaForCausalLM, texts: PackedTexts, inputs: Tensor | None = None) -> Tensor:
    """Mean cross-entropy of each token given those before it in its text.

    Args:
        model: the causal decoder.
        texts: packed texts; the last token of each predicts nothing.
        inputs: (total_tokens,) what is fed in place of the texts' own ids, e.g. partly masked; targets stay the texts'.
    """
    fed = texts if inputs is None else PackedTexts(inputs, texts.lengths, texts.restore)
    states = hidden_states(model, fed, causal=True)
    last = torch.tensor(texts.lengths).cumsum(0) - 1
    keep = torch.ones(len(texts.input_ids), dtype=torch.bool)
    keep[last] = False
    targets = texts.input_ids.roll(-1)[keep]
    with torch.autocast("cpu", torch.bfloat16):
        logits = model.lm_head(states[keep])
    return F.cross_entropy(logits.float(), targets)
