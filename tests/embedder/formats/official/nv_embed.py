"""NV-Embed: a Mistral and its latent attention under one configuration."""

from __future__ import annotations

from pathlib import Path

import torch
from official import TASK, TEXTS, WIDTHS, Built, Call, case, edit_json, random_model, rows, save_tokenizer, states
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, MistralConfig


@case("NV-Embed")
def nv_embed(folder: Path) -> Built:
    """Mistral and latent attention (huggingface.co/nvidia/NV-Embed-v2, `modeling_nvembed.py`)."""
    backbone = random_model(MistralConfig(**WIDTHS, sliding_window=None))
    generator = torch.Generator().manual_seed(3)
    width, inner = 2 * 16, 4 * 32
    shapes = {
        "latents": (6, 32),
        "cross_attend_blocks.0.norm.weight": (32,),
        "cross_attend_blocks.0.norm.bias": (32,),
        "cross_attend_blocks.0.norm_context.weight": (32,),
        "cross_attend_blocks.0.norm_context.bias": (32,),
        "cross_attend_blocks.0.fn.to_q.weight": (width, 32),
        "cross_attend_blocks.0.fn.to_kv.weight": (2 * width, 32),
        "cross_attend_blocks.0.fn.to_out.weight": (32, width),
        "cross_attend_blocks.1.norm.weight": (32,),
        "cross_attend_blocks.1.norm.bias": (32,),
        "cross_attend_blocks.1.fn.net.0.weight": (2 * inner, 32),
        "cross_attend_blocks.1.fn.net.0.bias": (2 * inner,),
        "cross_attend_blocks.1.fn.net.2.weight": (32, inner),
        "cross_attend_blocks.1.fn.net.2.bias": (32,),
    }
    block = {name: torch.randn(shape, generator=generator) * 0.4 for name, shape in shapes.items()}
    folder.mkdir(parents=True, exist_ok=True)
    halves = {f"embedding_model.{k}": v.contiguous() for k, v in backbone.state_dict().items()}
    latent = {f"latent_attention_model.{k}": v for k, v in block.items()}
    shards = {"model-00001-of-00002.safetensors": halves, "model-00002-of-00002.safetensors": latent}
    for name, tensors in shards.items():
        save_file(tensors, folder / name, metadata={"format": "pt"})
    index = {key: name for name, tensors in shards.items() for key in tensors}
    edit_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": index})
    reference = "modeling_nvembed.NVEmbed"
    edit_json(
        folder / "config.json",
        {
            "architectures": ["NVEmbedModel"],
            "model_type": "nvembed",
            "auto_map": {"AutoConfig": "configuration_nvembed.NVEmbedConfig", "AutoModel": f"{reference}Model"},
            "hidden_size": 32,
            "latent_attention_config": {
                "model_type": "latent_attention",
                "num_latents_value": 6,
                "num_cross_heads": 2,
                "output_normalize": True,
                "hidden_dim": 32,
                "latent_dim": 32,
                "cross_dim_head": 16,
            },
            "text_config": {**backbone.config.to_dict(), "model_type": "bidir_mistral"},
            "padding_side": "right",
            "add_pad_token": True,
            "is_mask_instruction": True,
            "add_eos": True,
            "mask_type": "b",
            "torch_dtype": "float32",
        },
    )
    # Code that must never run: it would say so.
    for name in ("configuration_nvembed.py", "modeling_nvembed.py"):
        (folder / name).write_text("raise RuntimeError('remote code ran')\n")
    save_tokenizer(folder, "sentencepiece", "<s> $A", padding_side="right")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)

    def vector(instruction: str, text: str) -> Tensor:
        hidden = states(backbone, tokenizer(instruction + text + "</s>").input_ids, bidirectional=True)
        mask = torch.ones(len(hidden))
        mask[: len(tokenizer.tokenize(instruction))] = 0
        return mask @ _latent_block(hidden, block) / mask.sum()

    prefix = f"Instruct: {TASK}\nQuery: "
    calls = [
        Call({"texts": list(TEXTS)}, rows([vector("", text) for text in TEXTS])),
        Call(
            {"texts": list(TEXTS), "kind": "query", "instruction": TASK}, rows([vector(prefix, text) for text in TEXTS])
        ),
    ]
    return Built(folder, calls)


def _latent_block(hidden: Tensor, w: dict[str, Tensor]) -> Tensor:
    """Heads in a loop, softmax written out."""
    first, second = "cross_attend_blocks.0.", "cross_attend_blocks.1."

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / torch.sqrt((centred**2).mean(-1, keepdim=True) + 1e-5)
        return scaled * w[f"{name}.weight"] + w[f"{name}.bias"]

    q = norm(hidden, f"{first}norm") @ w[f"{first}fn.to_q.weight"].T
    k, v = (norm(w["latents"], f"{first}norm_context") @ w[f"{first}fn.to_kv.weight"].T).chunk(2, -1)
    heads = [torch.softmax(q[:, s] @ k[:, s].T / 16**0.5, -1) @ v[:, s] for s in (slice(0, 16), slice(16, 32))]
    hidden = hidden + torch.cat(heads, -1) @ w[f"{first}fn.to_out.weight"].T
    x, gate = (norm(hidden, f"{second}norm") @ w[f"{second}fn.net.0.weight"].T + w[f"{second}fn.net.0.bias"]).chunk(
        2, -1
    )
    gelu = gate * 0.5 * (1 + torch.erf(gate / 2**0.5))
    return hidden + (x * gelu) @ w[f"{second}fn.net.2.weight"].T + w[f"{second}fn.net.2.bias"]
