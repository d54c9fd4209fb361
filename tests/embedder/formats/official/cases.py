"""Tiny random checkpoints in exactly the layout their makers publish, each with its method stated plainly.

A statement goes text by text through the stock transformers class with a mask written out, and shares no code with
Decant. One file per format registers its cases here; `test_official.py` and `benchmarks/parity.py` read them all.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.nn import functional
from transformers import (
    AutoModel,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

Vectors = NDArray[np.float32]

TEXTS = (
    "Rivers carry water from the mountains to the sea.",
    "sea",
    "The committee met on Tuesday, discussed the budget for three hours, and adjourned without taking a decision.",
    "def add(a, b):\n    return a + b",
)
TASK = "Given a question, find the answer"
EXAMPLES = (("what is a river", "Rivers carry water."), ("who met", "The committee met on Tuesday."))

WIDTHS: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True)
class Call:
    """One way to encode: the arguments of `Encoder.encode`, and the same texts by the plain statement."""

    arguments: dict[str, Any]
    expected: Vectors
    output: str = "dense"

    def difference(self, encoder: Any) -> float:
        """Encode, and return the largest absolute difference from the plain statement."""
        got = getattr(encoder.encode(**self.arguments), self.output)
        rows = got.toarray()[:, : self.expected.shape[1]] if self.output == "sparse" else got
        return float(np.abs(rows - self.expected).max())


@dataclass(frozen=True)
class Built:
    """A checkpoint on disk: the arguments of `Encoder.load`, calls with their vectors, how plain loaders see it."""

    path: Path
    calls: list[Call]
    load: dict[str, Any] = field(default_factory=dict)
    plain: bool = False  # whether plain sentence-transformers loads it
    plain_again: bool = False  # whether it loads what Decant saves of it


Builder = Callable[[Path], Built]
CASES: dict[str, Builder] = {}


def case(name: str) -> Callable[[Builder], Builder]:
    def register(builder: Builder) -> Builder:
        CASES[name] = builder
        return builder

    return register


@cache
def _trained(kind: str) -> str:
    special = ["<pad>", "<s>", "</s>", "<unk>", "<|im_end|>", "<instruct>", "<query>", "<response>"]
    size, corpus = 420, [*TEXTS, TASK, "Instruct: Query: task: search result | query: title: none | text: passage: "]
    if kind == "sentencepiece":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        letters = sorted({letter for text in corpus for letter in text} | set('<|>!"\n'))
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, show_progress=False, initial_alphabet=letters
    )
    tokenizer.train_from_iterator(corpus, trainer)
    return tokenizer.to_str()


def save_tokenizer(folder: Path, kind: str, template: str, **config: Any) -> None:
    """Save a tokenizer whose own template is e.g. `<s> $A </s>`; `config` goes into tokenizer_config.json."""
    tokenizer = Tokenizer.from_str(_trained(kind))
    names = [name for name in template.split() if name != "$A"]
    if names:
        special = [(name, tokenizer.token_to_id(name)) for name in dict.fromkeys(names)]
        tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)
    options = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    whole = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=256, **options)
    whole.save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", config)


def edit_json(file: Path, values: dict[str, Any]) -> None:
    present = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**present, **values}))


def random_model(config: PretrainedConfig, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    config.vocab_size = 420
    model = AutoModel.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # the usual initialisation is so small that nothing could go wrong
            parameter.mul_(4.0 if parameter.ndim > 1 else 1.0).add_(0.02 * torch.randn_like(parameter))
    return model


def save_st(folder: Path, pooling: str, prompts: dict[str, str], dense: int = 0) -> None:
    """Write sentence-transformers' files around a model of width 32, in the layout published models carry."""
    names = ["Transformer", "Pooling", *["Dense"] * dense, "Normalize"]
    paths = ["" if i == 0 else f"{i}_{name}" for i, name in enumerate(names)]
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{name}"}
        for i, (name, path) in enumerate(zip(names, paths, strict=True))
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    modes = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
    (folder / "1_Pooling").mkdir()
    edit_json(
        folder / "1_Pooling/config.json",
        {
            "word_embedding_dimension": 32,
            **{f"pooling_mode_{mode}": mode == pooling for mode in modes},
            "include_prompt": True,
        },
    )
    edit_json(folder / "sentence_bert_config.json", {"max_seq_length": 128, "do_lower_case": False})
    edit_json(folder / "config_sentence_transformers.json", {"prompts": prompts, "default_prompt_name": None})
    generator = torch.Generator().manual_seed(1)
    for i in range(dense):
        shape = (32, 96) if i else (96, 32)
        sizes = {"out_features": shape[0], "in_features": shape[1], "bias": False}
        (folder / f"{2 + i}_Dense").mkdir()
        edit_json(
            folder / f"{2 + i}_Dense/config.json",
            {**sizes, "activation_function": "torch.nn.modules.linear.Identity"},
        )
        save_file(
            {"linear.weight": torch.randn(shape, generator=generator) * 0.3},
            folder / f"{2 + i}_Dense/model.safetensors",
        )


@torch.no_grad()
def states(model: Any, ids: list[int], *, bidirectional: bool) -> Tensor:
    """Hidden states (tokens, H) of one text, through a stock causal class with its mask written out."""
    model.set_attn_implementation("eager")
    n = len(ids)
    hidden = torch.zeros(n, n) if bidirectional else torch.full((n, n), float("-inf")).triu(1)
    out = model(input_ids=torch.tensor([ids]), attention_mask=hidden[None, None], use_cache=False)
    return out.last_hidden_state[0]


def rows(vectors: list[Tensor], *, unit: bool = True) -> Vectors:
    stacked = torch.stack(vectors)
    return (functional.normalize(stacked, dim=-1) if unit else stacked).numpy()


def last_token(folder: Path, model: Any, text: str, *, eos: bool = False) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return states(model, tokenizer(text).input_ids + [2] * eos, bidirectional=False)[-1]


def load_formats() -> None:
    """Import every format's file, which registers its cases."""
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.stem != "cases":
            import_module(f"{__name__}.{file.stem}")
