"""Qwen3-Embedding."""

from __future__ import annotations

from pathlib import Path

from official import TASK, TEXTS, WIDTHS, Built, Call, case, last_token, random_model, rows, save_st, save_tokenizer
from transformers import Qwen3Config


@case("Qwen3-Embedding")
def qwen3_embedding(folder: Path) -> Built:
    """huggingface.co/Qwen/Qwen3-Embedding-0.6B: the closing token is the padding token and not the tokenizer's EOS."""
    model = random_model(Qwen3Config(**WIDTHS))
    model.save_pretrained(folder)
    save_tokenizer(
        folder,
        "byte-level",
        "$A </s>",
        tokenizer_class="Qwen2Tokenizer",
        pad_token="</s>",
        eos_token="<|im_end|>",
        bos_token=None,
        unk_token=None,
        padding_side="left",
    )
    prompt = f"Instruct: {TASK}\nQuery:"
    save_st(folder, "lasttoken", {"query": prompt, "document": ""})
    calls = [
        Call(arguments | {"texts": list(TEXTS)}, rows([last_token(folder, model, before + text) for text in TEXTS]))
        for arguments, before in (({}, ""), ({"kind": "query"}, prompt))
    ]
    return Built(folder, calls, plain=True, plain_again=True)
