"""bge-en-icl: few-shot queries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from official import (
    EXAMPLES,
    TASK,
    TEXTS,
    WIDTHS,
    Built,
    Call,
    case,
    edit_json,
    last_token,
    random_model,
    rows,
    save_st,
    save_tokenizer,
)
from transformers import MistralConfig


@case("bge-en-icl")
def bge_en_icl(folder: Path) -> Built:
    """huggingface.co/BAAI/bge-en-icl and FlagEmbedding `decoder_only/icl`: few-shot queries, bare passages."""
    model = random_model(MistralConfig(**WIDTHS, sliding_window=None))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A </s>", tokenizer_class="LlamaTokenizer", add_eos_token=True)
    save_st(folder, "lasttoken", {})
    shots = "\n\n".join(f"<instruct>{TASK}\n<query>{q}\n<response>{p}" for q, p in EXAMPLES) + "\n\n"

    def query(text: str, before: str = "") -> str:
        return f"{before}<instruct>{TASK}\n<query>{text}\n<response>"

    queries: dict[str, Any] = {"texts": list(TEXTS), "kind": "query", "instruction": TASK}
    calls = [
        Call({"texts": list(TEXTS)}, rows([last_token(folder, model, text) for text in TEXTS])),
        Call(queries, rows([last_token(folder, model, query(text)) for text in TEXTS])),
        Call(
            queries | {"texts": TEXTS[:2], "examples": EXAMPLES},
            rows([last_token(folder, model, query(text, shots)) for text in TEXTS[:2]]),
        ),
    ]
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 256})
    return Built(folder, calls, {"rule": "bge-en-icl"})
