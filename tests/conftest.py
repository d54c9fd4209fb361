"""What tests of every floor share: no network, and a model small enough to be made on the spot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before any library reads them: a test that reaches for the network is a mistake, and must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
# Triton reads it on its first import, which torch may do in any test; kernels are interpreted only where asked for.
os.environ["TRITON_INTERPRET"] = "1"

CORPUS = (
    "Rivers carry water from the mountains to the sea.",
    "The committee met on Tuesday and discussed the budget for three hours.",
    "def add(a, b): return a + b",
)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer Llama decoder with random weights and a byte-level tokenizer, as a plain Hugging Face folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaModel, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=["<pad>", "<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", model_max_length=128
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    LlamaModel(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_experts(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts of the same size and with the same tokenizer: two layers of four experts."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, OlmoeConfig, OlmoeModel

    folder = tmp_path_factory.mktemp("tiny-experts")
    same = LlamaConfig.from_pretrained(tiny_model).to_dict()
    names = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads")
    ends = ("max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id")
    torch.manual_seed(2)
    sizes = {name: same[name] for name in names + ends}
    OlmoeModel(OlmoeConfig(**sizes, intermediate_size=16, num_experts=4, num_experts_per_tok=2)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder
