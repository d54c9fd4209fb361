"""A mixture of experts out of a trained dense decoder: its feed-forward neurons are grouped, none is added.

After MoEfication (Zhang et al. 2022, arXiv 2110.01786): neurons whose input weights point the same way fire together,
so each group of them is an expert, and the router scores a token by its likeness to the group. Half of the neurons,
those with the largest weights, become the shared expert of Qwen2-MoE that every token passes. At the start the model
computes nearly what the dense one does; training it makes up for the neurons that a token no longer passes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModelForCausalLM, LlamaForCausalLM, Qwen2MoeConfig, Qwen2MoeForCausalLM

from .settings import RecipeError

_KEPT = (
    "vocab_size hidden_size num_hidden_layers num_attention_heads num_key_value_heads hidden_act "
    "max_position_embeddings rms_norm_eps rope_parameters tie_word_embeddings pad_token_id bos_token_id eos_token_id"
).split()
_ROUNDS = 10
# Of the router's logits over the tokens of the vocabulary: decided, and not saturated.
_LOGIT_STD = 1.5


def make_experts(folder: Path, changes: dict[str, Any], seed: int) -> Qwen2MoeForCausalLM:
    """Make a `qwen2_moe` decoder of the Llama decoder in `folder`, in float32.

    Args:
        folder: the dense decoder, or an encoder made of one.
        changes: of the configuration; `num_experts` and `num_experts_per_tok` say how the routed half is cut.
        seed: of the grouping's first centres.

    Raises:
        RecipeError: the folder holds no Llama, one with biases, or its neurons do not divide into so many experts.
    """
    try:
        dense = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    except (OSError, ValueError) as error:
        raise RecipeError(f"decoder.experts_of: cannot load {folder}: {str(error).splitlines()[0]}") from error
    if not isinstance(dense, LlamaForCausalLM):
        raise RecipeError(f"decoder.experts_of: {folder} is {dense.config.model_type}: experts are made of a llama")
    if dense.config.attention_bias or dense.config.mlp_bias:
        raise RecipeError(f"decoder.experts_of: {folder} has biases, for which a qwen2_moe has no place")
    experts, chosen = int(changes.get("num_experts", 8)), int(changes.get("num_experts_per_tok", 2))
    routed = int(dense.config.intermediate_size) // 2
    if experts < 2 or not 0 < chosen <= experts or routed % experts:
        raise RecipeError(
            f"decoder.config.num_experts: {routed} neurons do not divide into {experts} experts, {chosen} for a token"
        )
    values: dict[str, Any] = {name: getattr(dense.config, name) for name in _KEPT}
    values |= {"moe_intermediate_size": routed // experts, "shared_expert_intermediate_size": routed}
    values |= {"num_experts": experts, "num_experts_per_tok": chosen, "norm_topk_prob": True, "qkv_bias": False}
    model = Qwen2MoeForCausalLM(Qwen2MoeConfig(**values))
    state = dense.state_dict()
    taken = {name: value for name, value in state.items() if ".mlp." not in name}
    missing, strange = model.load_state_dict(taken, strict=False)
    assert not strange and all(".mlp." in name for name in missing)
    generator = torch.Generator().manual_seed(seed)
    layers: list[tuple[Any, Any]] = list(zip(dense.model.layers, model.model.layers, strict=True))
    for old, new in layers:
        _split(old.mlp, new.mlp, _typical_inputs(dense, old), chosen, generator)
    return model


@torch.no_grad()
def _split(dense: Any, sparse: Any, inputs: Tensor, chosen: int, generator: torch.Generator) -> None:
    """Deal the neurons of one feed-forward layer out; `inputs` (N, H) are what it typically reads."""
    gate, up, down = (getattr(dense, name).weight for name in ("gate_proj", "up_proj", "down_proj"))
    size = gate.norm(dim=1) * up.norm(dim=1) * down.norm(dim=0)
    order = size.argsort(descending=True, stable=True)
    shared, rest = order[: len(order) // 2].sort().values, order[len(order) // 2 :].sort().values
    expert = sparse.shared_expert
    expert.gate_proj.weight.copy_(gate[shared])
    expert.up_proj.weight.copy_(up[shared])
    # The gate of the shared expert starts half open.
    sparse.shared_expert_gate.weight.zero_()
    expert.down_proj.weight.copy_(2 * down[:, shared])
    groups = balanced_groups(F.normalize(gate[rest], dim=1), sparse.experts.num_experts, generator)
    for number, group in enumerate(groups):
        own = rest[group]
        sparse.experts.gate_up_proj[number].copy_(torch.cat([gate[own], up[own]]))
        # The weights of the chosen experts add up to 1, so each is about 1 / chosen.
        sparse.experts.down_proj[number].copy_(chosen * down[:, own])
    centres = torch.stack([F.normalize(gate[rest[group]], dim=1).mean(0) for group in groups])
    # What all experts share would leave the choice to chance.
    centres = centres - centres.mean(0)
    sparse.gate.weight.copy_(centres * (_LOGIT_STD / (inputs @ centres.T).std()))


def balanced_groups(rows: Tensor, count: int, generator: torch.Generator) -> list[Tensor]:
    """Group (N, H) unit rows by direction into `count` groups of equal size: k-means that fills the surest first.

    Returns:
        The row numbers of each group, rising.
    """
    room = len(rows) // count
    centres = rows[torch.randperm(len(rows), generator=generator)[:count]]
    owner = torch.zeros(len(rows), dtype=torch.long)
    for _ in range(_ROUNDS):
        likeness = rows @ centres.T
        left, owner = torch.full((count,), room), torch.full((len(rows),), -1)
        for flat in likeness.flatten().argsort(descending=True).tolist():
            row, group = divmod(flat, count)
            if owner[row] < 0 and left[group]:
                owner[row], left[group] = group, left[group] - 1
        centres = F.normalize(torch.stack([rows[owner == group].mean(0) for group in range(count)]), dim=1)
    return [torch.nonzero(owner == group)[:, 0] for group in range(count)]


@torch.no_grad()
def _typical_inputs(dense: LlamaForCausalLM, layer: Any) -> Tensor:
    """What a layer's feed-forward reads where attention adds nothing: the normed token table, (V, H)."""
    return layer.post_attention_layernorm(dense.get_input_embeddings().weight)
