"""MoEE: the routers of a mixture of experts beside its last hidden state, by PromptEOL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from official import TEXTS, WIDTHS, Built, Call, case, random_model, rows, save_tokenizer
from torch import Tensor
from transformers import (
    AutoTokenizer,
    DeepseekV2Config,
    DeepseekV3Config,
    MixtralConfig,
    OlmoeConfig,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

from decant.embedder import EncoderSpec
from decant.embedder.prompts import apply_rule
from decant.embedder.spec import RouterSpec

EXPERTS: dict[str, Any] = {
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT: dict[str, Any] = {
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
}


def prompted(text: str) -> str:
    """The published code's `moee.py`: a full stop, single quotation marks, spaces for underscores."""
    closed = text + "." if text[-1] not in ".?!\"'" else text
    sentence = closed.replace('"', "'")
    return 'This sentence : "*sent 0*" means in one word:"'.replace("*sent 0*", sentence).replace("_", " ").strip()


def moee(folder: Path, config: type[PretrainedConfig], **sizes: Any) -> Built:
    """Softmax over all experts at the last token, layer beside layer (github.com/tianyi-lab/MoE-Embedding)."""
    known = {name: value for name, value in EXPERTS.items() if hasattr(config(), name)}
    model = random_model(config(**{**WIDTHS, **known, **sizes}))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model.set_attn_implementation("eager")

    @torch.no_grad()
    def parts(text: str) -> tuple[Tensor, Tensor]:
        ids = torch.tensor([tokenizer(prompted(text)).input_ids])
        out = model(input_ids=ids, output_router_logits=True)
        layers = [logits.reshape(ids.shape[1], -1)[-1].float() for logits in out.router_logits]
        return out.last_hidden_state[0, -1], torch.cat([layer.softmax(-1) for layer in layers])

    texts = [*TEXTS, 'he said "yes" to snake_case']
    hidden, routers = zip(*(parts(text) for text in texts), strict=True)
    arguments = {"texts": texts, "outputs": ("dense", "router")}
    calls = [Call(arguments, rows(list(hidden))), Call(arguments, rows(list(routers), unit=False), "router")]
    assert np.allclose(calls[1].expected.sum(1), len(calls[1].expected[0]) / 4)
    spec = apply_rule("prompt-eol", EncoderSpec(max_tokens=128, router=RouterSpec(normalize=False)))
    return Built(folder, calls, {"spec": spec})


case("MoEE (OLMoE)")(lambda folder: moee(folder, OlmoeConfig))
case("MoEE (Qwen2-MoE)")(lambda folder: moee(folder, Qwen2MoeConfig))
case("MoEE (Qwen3-MoE)")(lambda folder: moee(folder, Qwen3MoeConfig))
case("MoEE (Mixtral)")(lambda folder: moee(folder, MixtralConfig, sliding_window=None))
case("MoEE (DeepSeek-V2)")(lambda folder: moee(folder, DeepseekV2Config, **LATENT))
case("MoEE (DeepSeek-V3)")(lambda folder: moee(folder, DeepseekV3Config, **LATENT))
