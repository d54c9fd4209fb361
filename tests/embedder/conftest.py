"""Tiny tokenizers and tiny random models of any architecture, saved as real folders; built once a session."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PretrainedConfig, PreTrainedTokenizerFast

from decant.embedder import Encoder, EncoderSpec

VOCABULARY = 320
CORPUS = [
    "Rivers carry water from the mountains to the sea.",
    "query: passage: Represent this sentence for searching; Instruct: given a question, find the answer.",
    "The committee met on Tuesday and discussed the budget for three hours without a decision.",
    "def add(a, b): return a + b",
    "short text, a longer text, the longest text of them all, words and word",
]

# Small values of whatever a configuration has; two layers, windows shorter than the texts, few experts.
TINY: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "sliding_window": 4,
    "head_dim": 8,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 8,
    "q_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "max_window_layers": 0,
    "use_sliding_window": True,
    "first_k_dense_replace": 1,
    "word_embed_proj_dim": 32,
    "ffn_dim": 64,
    "n_positions": 64,
    "rotary_dim": 4,
    "attention_heads": 4,
    "d_ff": 64,
    "dff": 64,
    "n_inner": 64,
    "local_attention": 4,
    "global_attn_every_n_layers": 2,
    "vocab_size_per_layer_input": VOCABULARY,
    "hidden_size_per_layer_input": 8,
    "conv_kernel": 4,
    "use_mamba_kernels": False,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
}


def tiny_config(family: str, **overrides: Any) -> PretrainedConfig:
    """Make a configuration of the architecture `family` with `TINY` values under the names it uses."""
    default = AutoConfig.for_model(family)
    known = {*inspect.signature(type(default).__init__).parameters, *vars(default), *type(default).attribute_map}
    values = {name: value for name, value in TINY.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention has no grouped heads
        values["num_key_value_heads"] = TINY["num_attention_heads"]
    kinds = set(getattr(default, "layer_types", None) or ())
    if kinds == {"sliding_attention", "full_attention"}:
        values["layer_types"] = ["sliding_attention", "full_attention"]
    return AutoConfig.for_model(family, **(values | overrides))


@cache
def make_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Train a tokenizer of some 300 tokens.

    Kinds: `byte` (byte-level BPE, no special tokens added), `byte-eos` (EOS behind), `metaspace` (words begin with a
    marked space, BOS in front), `wordpiece` (lower-cased, CLS in front and SEP behind).
    """
    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    if kind == "wordpiece":
        tokenizer = Tokenizer(models.WordPiece(unk_token="<unk>"))  # type: ignore[arg-type]
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer: Any = trainers.WordPieceTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    elif kind == "metaspace":
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
        trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, show_progress=False)
    else:
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=300,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        )
    tokenizer.train_from_iterator(CORPUS, trainer)
    templates = {"byte-eos": "$A <eos>", "metaspace": "<bos> $A", "wordpiece": "<bos> $A <eos>"}
    if kind in templates:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=templates[kind], special_tokens=[("<bos>", 1), ("<eos>", 2)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_max_length=64,
    )


def save_model(
    folder: Path, family: str = "llama", tokenizer: str = "byte", *, lm: bool = False, seed: int = 0, **overrides: Any
) -> Path:
    """Save a random model and a tokenizer as a plain Hugging Face folder; `lm` keeps the language-model head."""
    config = tiny_config(family, **overrides)
    torch.manual_seed(seed)
    model = (AutoModelForCausalLM if lm else AutoModel).from_config(config)
    model.save_pretrained(folder)
    make_tokenizer(tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tokenizer_of() -> Callable[[str], PreTrainedTokenizerFast]:
    return make_tokenizer


@pytest.fixture(scope="session")
def config_of() -> Callable[..., PretrainedConfig]:
    return tiny_config


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`model_folder(family, tokenizer, **config)`: a saved tiny model, one per set of arguments; do not change it."""

    made: dict[str, Path] = {}

    def make(family: str = "llama", tokenizer: str = "byte", **overrides: Any) -> Path:
        key = repr((family, tokenizer, sorted(overrides.items())))
        if key not in made:
            made[key] = save_model(tmp_path_factory.mktemp(family), family, tokenizer, **overrides)
        return made[key]

    return make


@pytest.fixture
def new_model(tmp_path: Path) -> Callable[..., Path]:
    """Like `model_folder`, but in a folder of this test's own, which it may change."""

    def make(family: str = "llama", tokenizer: str = "byte", *, name: str = "model", **overrides: Any) -> Path:
        return save_model(tmp_path / name, family, tokenizer, **overrides)

    return make


@pytest.fixture(scope="session")
def encoder_of(model_folder: Callable[..., Path]) -> Callable[..., Encoder]:
    """`encoder_of(spec, family, tokenizer, **config)`: a loaded float32 encoder; do not change it."""

    def make(
        spec: EncoderSpec | None = None, family: str = "llama", tokenizer: str = "byte", **overrides: Any
    ) -> Encoder:
        return Encoder.load(model_folder(family, tokenizer, **overrides), dtype="float32", spec=spec)

    return make
