"""EmbeddingGemma."""

from __future__ import annotations

from pathlib import Path

import torch
from official import TEXTS, WIDTHS, Built, Call, case, random_model, rows, save_st, save_tokenizer
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, Gemma3TextConfig


@case("EmbeddingGemma")
def embedding_gemma(folder: Path) -> Built:
    """huggingface.co/google/embeddinggemma-300m: Gemma 3 made bidirectional by its own flag, two dense layers."""
    widths = {**WIDTHS, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    model = random_model(Gemma3TextConfig(**widths, query_pre_attn_scalar=8, use_bidirectional_attention=True))
    model.save_pretrained(folder)
    save_tokenizer(folder, "sentencepiece", "<s> $A </s>", tokenizer_class="GemmaTokenizer")
    prompts = {"query": "task: search result | query: ", "document": "title: none | text: "}
    save_st(folder, "mean_tokens", prompts, dense=2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    dense = [load_file(folder / f"{i}_Dense/model.safetensors")["linear.weight"] for i in (2, 3)]
    causal = AutoModel.from_config(Gemma3TextConfig(**widths, query_pre_attn_scalar=8, vocab_size=420)).eval()
    causal.load_state_dict(model.state_dict())

    @torch.no_grad()
    def vector(text: str) -> Tensor:
        ids = tokenizer(text).input_ids
        n = len(ids)
        distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
        # The configuration's window of 8 is the whole width: 4 tokens on either side.
        local = torch.zeros(n, n).masked_fill(distance > 8 // 2, float("-inf"))
        masks = {"full_attention": torch.zeros(1, 1, n, n), "sliding_attention": local[None, None]}
        causal.set_attn_implementation("eager")
        out = causal(input_ids=torch.tensor([ids]), attention_mask=masks, use_cache=False)
        return dense[1] @ (dense[0] @ out.last_hidden_state[0].mean(0))

    calls = [
        Call({"texts": list(TEXTS), "kind": kind}, rows([vector(prompt + text) for text in TEXTS]))
        for kind, prompt in prompts.items()
    ]
    return Built(folder, calls, plain=True, plain_again=True)
