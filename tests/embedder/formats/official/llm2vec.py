"""LLM2Vec: adapters on a base, one of them merged first."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from official import TASK, TEXTS, WIDTHS, Built, Call, case, edit_json, random_model, rows, save_tokenizer, states
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, MistralConfig, PretrainedConfig


def save_adapter(folder: Path, model: Any, base: str, seed: int) -> None:
    """Save a random LoRA adapter over the base model, trained as LLM2Vec trains: on the inner model, no task type."""
    torch.manual_seed(seed)
    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)  # PEFT's, of transformers
        wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules=names))
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    wrapped.save_pretrained(folder)
    wrapped.unload()
    edit_json(folder / "adapter_config.json", {"base_model_name_or_path": base})


def add_adapter(model: Any, folder: Path) -> None:
    """W += alpha / r * B A, written out."""
    state = load_file(folder / "adapter_model.safetensors")
    for name, a in state.items():
        if not name.endswith("lora_A.weight"):
            continue
        weight = model.get_parameter(name.removeprefix("base_model.model.").replace("lora_A.weight", "weight"))
        weight.data += 2.0 * state[name.replace("lora_A", "lora_B")] @ a


def llm2vec(folder: Path, family: type[PretrainedConfig] = LlamaConfig, **config: Any) -> Built:
    """Base, MNTP adapter merged, supervised adapter on top (github.com/McGill-NLP/llm2vec, `llm2vec.py`)."""
    settings = {"pooling_mode": "mean", "max_length": 96, "doc_max_length": 40, "skip_instruction": True, **config}
    model = random_model(family(**WIDTHS))
    model.save_pretrained(folder / "base")
    save_tokenizer(folder / "base", "sentencepiece", "<s> $A")
    for seed, name in enumerate(("mntp", "supervised"), start=1):
        save_adapter(folder / name, model, str(folder / "base"), seed)
        add_adapter(model, folder / name)
    save_tokenizer(folder / "mntp", "sentencepiece", "<s> $A")
    edit_json(folder / "supervised/llm2vec_config.json", settings)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")

    def vector(instruction: str, text: str) -> Tensor:
        while (count := len(tokenizer(text, add_special_tokens=False, truncation=True, max_length=96).input_ids)) > 40:
            text = " ".join(text.split()[: int(len(text.split()) * (40 / count))])
        closing = {"eos_token": " </s>"}.get(settings["pooling_mode"], "")
        whole = f"{instruction.strip()} {text}{closing}" if instruction else text + closing
        ids = tokenizer(whole).input_ids
        length = len(tokenizer(text + closing, add_special_tokens=False).input_ids)
        hidden = states(model, ids, bidirectional=True)
        kept = hidden[-length:] if settings["skip_instruction"] else hidden
        match settings["pooling_mode"]:
            case "mean":
                return kept.mean(0)
            case "weighted_mean":
                weights = torch.arange(1.0, len(kept) + 1)
                return (weights / weights.sum()) @ kept
            case "bos_token":
                return hidden[ids.index(1)]
            case _:
                return hidden[-1]

    texts = [*TEXTS, " ".join(TEXTS) * 2]
    calls = [
        Call({"texts": texts}, rows([vector("", text) for text in texts], unit=False)),
        Call(
            {"texts": texts, "kind": "query", "instruction": f"{TASK}:"},
            rows([vector(f"{TASK}:", text) for text in texts], unit=False),
        ),
    ]
    return Built(folder / "mntp", calls, {"adapters": [folder / "supervised"]})


case("LLM2Vec (mean)")(llm2vec)
case("LLM2Vec (weighted mean)")(lambda folder: llm2vec(folder, pooling_mode="weighted_mean"))
case("LLM2Vec (EOS)")(lambda folder: llm2vec(folder, MistralConfig, pooling_mode="eos_token"))
case("LLM2Vec (BOS)")(lambda folder: llm2vec(folder, pooling_mode="bos_token"))
case("LLM2Vec (instruction pooled)")(lambda folder: llm2vec(folder, skip_instruction=False))
