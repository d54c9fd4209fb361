"""SPLADE: a masked language model's logits, and a decoder's, in a SparseEncoder folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from official import TEXTS, WIDTHS, Built, Call, case, edit_json, rows, save_tokenizer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer, BertConfig, LlamaConfig

DECODER: dict[str, Any] = {
    "transformer_task": "text-generation",
    "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
    "module_output_name": "token_embeddings",
    "processing_kwargs": {"text": {"logits_to_keep": 0}},
}


def splade(folder: Path, model: Any, reader: str, template: str, options: dict[str, Any]) -> Built:
    """log(1 + relu(logit)), the largest over all tokens (arXiv 2109.10086), special ones included."""
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    model.eval().save_pretrained(folder)
    save_tokenizer(folder, "byte-level", template)
    kinds = (("", reader), ("1_SpladePooling", "sentence_transformers.sparse_encoder.models.SpladePooling"))
    modules = [{"idx": i, "name": str(i), "path": path, "type": kind} for i, (path, kind) in enumerate(kinds)]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_SpladePooling").mkdir()
    edit_json(folder / "1_SpladePooling/config.json", {"pooling_strategy": "max", "activation_function": "relu"})
    edit_json(folder / "sentence_bert_config.json", options)
    edit_json(folder / "config_sentence_transformers.json", {"model_type": "SparseEncoder", "prompts": {}})
    tokenizer = AutoTokenizer.from_pretrained(folder)

    @torch.no_grad()
    def weights(text: str) -> Tensor:
        logits = model(input_ids=torch.tensor([tokenizer(text).input_ids])).logits[0]
        return (1 + logits.clamp_min(0)).log().amax(0)[: len(tokenizer)]

    return Built(folder, [Call({"texts": list(TEXTS)}, rows([weights(t) for t in TEXTS], unit=False), "sparse")])


@case("SPLADE (BERT)")
def masked(folder: Path) -> Built:
    """The layout of published SPLADE models."""
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(BertConfig(**WIDTHS, vocab_size=420))
    reader = "sentence_transformers.sparse_encoder.models.MLMTransformer"
    return splade(folder, model, reader, "<s> $A </s>", {"max_seq_length": 128, "do_lower_case": False})


@case("SPLADE (decoder)")
def decoder(folder: Path) -> Built:
    """The only form in which sentence-transformers 6.2 runs a decoder."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**WIDTHS, vocab_size=420))
    return splade(folder, model, "sentence_transformers.base.modules.transformer.Transformer", "<s> $A", DECODER)
