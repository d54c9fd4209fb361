"""E5-mistral, with sentence-transformers files and without."""

from __future__ import annotations

from pathlib import Path

from official import TASK, TEXTS, WIDTHS, Built, Call, case, last_token, random_model, rows, save_st, save_tokenizer
from transformers import MistralConfig


@case("E5-mistral (sentence-transformers folder)")
def e5_mistral_st(folder: Path) -> Built:
    """huggingface.co/intfloat/e5-mistral-7b-instruct: EOS by the tokenizer's template, last token."""
    model = random_model(MistralConfig(**WIDTHS, sliding_window=64))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A </s>", tokenizer_class="LlamaTokenizer", add_eos_token=True)
    prompt = f"Instruct: {TASK}\nQuery: "
    save_st(folder, "lasttoken", {"web_search_query": prompt})
    calls = [
        Call(arguments | {"texts": list(TEXTS)}, rows([last_token(folder, model, before + text) for text in TEXTS]))
        for arguments, before in (({}, ""), ({"kind": "web_search_query"}, prompt))
    ]
    return Built(folder, calls, plain=True, plain_again=True)


@case("E5-mistral (bare decoder)")
def e5_mistral_bare(folder: Path) -> Built:
    """The same without sentence-transformers' files; the card appends EOS by hand."""
    model = random_model(MistralConfig(**WIDTHS, sliding_window=64))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A", tokenizer_class="LlamaTokenizer")
    prompt = f"Instruct: {TASK}\nQuery: "
    calls = [
        Call(
            arguments | {"texts": list(TEXTS)},
            rows([last_token(folder, model, before + text, eos=True) for text in TEXTS]),
        )
        for arguments, before in (({}, ""), ({"kind": "query", "instruction": TASK}, prompt))
    ]
    return Built(folder, calls, {"rule": "e5-mistral"}, plain_again=True)
