"""NVIDIA's decoders made bidirectional: by configuration, and as a class of their own."""

from __future__ import annotations

from pathlib import Path

from official import (
    TASK,
    TEXTS,
    WIDTHS,
    Built,
    Call,
    case,
    edit_json,
    random_model,
    rows,
    save_st,
    save_tokenizer,
    states,
)
from transformers import AutoTokenizer, LlamaConfig, Ministral3Config, PreTrainedTokenizerFast


@case("Nemotron (is_causal=false)")
def nemotron(folder: Path) -> Built:
    """huggingface.co/nvidia/Nemotron-3-Embed-1B: a stock class, bidirectional by its configuration alone."""
    model = random_model(Ministral3Config(**WIDTHS, sliding_window=None))
    model.save_pretrained(folder)
    edit_json(folder / "config.json", {"is_causal": False})
    save_tokenizer(folder, "byte-level", "<s> $A")
    prompts = {"query": "query: ", "document": "passage: "}
    save_st(folder, "mean_tokens", prompts)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    calls = [
        Call(
            {"texts": list(TEXTS), "kind": kind},
            rows([states(model, tokenizer(before + text).input_ids, bidirectional=True).mean(0) for text in TEXTS]),
        )
        for kind, before in prompts.items()
    ]
    return Built(folder, calls, plain=True, plain_again=True)


@case("Llama-Embed-Nemotron (llama_bidirec)")
def llama_embed_nemotron(folder: Path) -> Built:
    """huggingface.co/nvidia/llama-embed-nemotron-8b: Llama under a name of its own, with code nobody needs."""
    model = random_model(LlamaConfig(**WIDTHS))
    model.save_pretrained(folder)
    code = {
        "AutoConfig": "llama_bidirectional_model.LlamaBidirectionalConfig",
        "AutoModel": "llama_bidirectional_model.LlamaBidirectionalModel",
    }
    (folder / "llama_bidirectional_model.py").write_text("raise RuntimeError('remote code ran')\n")
    architecture = {"model_type": "llama_bidirec", "architectures": ["LlamaBidirectionalModel"], "auto_map": code}
    edit_json(folder / "config.json", {**architecture, "pooling": "avg", "temperature": 0.02})
    save_tokenizer(folder, "byte-level", "<s> $A")
    save_st(folder, "mean_tokens", {"query": f"Instruct: {TASK}\nQuery: ", "document": ""})
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    calls = [
        Call(
            {"texts": list(TEXTS), "kind": kind},
            rows([states(model, tokenizer(before + text).input_ids, bidirectional=True).mean(0) for text in TEXTS]),
        )
        for kind, before in (("query", f"Instruct: {TASK}\nQuery: "), ("document", ""))
    ]
    return Built(folder, calls, plain_again=True)
