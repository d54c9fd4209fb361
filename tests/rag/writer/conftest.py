"""A small writer with random weights, and states for it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from decant.rag.reader.model import ReaderConfig, SpanReader
from decant.rag.states import States
from decant.rag.writer.lit import ODDS
from decant.rag.writer.model import CopyWriter
from decant.rag.xc.config import XcConfig
from decant.rag.xc.decoder import XcDecoder

WIDTH, VOCABULARY, READER_WIDTH = 32, 50, 16


@pytest.fixture
def untrained() -> CopyWriter:
    """One whose head knows nothing yet."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=4, bos_token_id=1, eos_token_id=2, initializer_range=0.3, is_causal=False,
    )  # fmt: skip
    blocks = XcConfig(
        3, WIDTH, WIDTH + READER_WIDTH + ODDS + 1, blocks=2, stride=1, hidden=16, heads=4, kv_heads=4, inner=24,
        gate=False,
    )  # fmt: skip
    reader = SpanReader(ReaderConfig(WIDTH, VOCABULARY, READER_WIDTH))
    return CopyWriter(XcDecoder(LlamaForCausalLM(config), blocks, std=0.3), reader).eval().requires_grad_(False)


@pytest.fixture
def writer(untrained: CopyWriter) -> CopyWriter:
    for parameter in untrained.head.parameters():
        parameter.add_(0.5 * torch.randn_like(parameter))
    return untrained


def states(ids: list[int], seed: int = 0) -> States:
    rng = np.random.default_rng([seed, *ids])
    places = np.arange(len(ids), dtype=np.int32)
    hidden = rng.standard_normal((len(ids), WIDTH)).astype(np.float16)
    return States(np.array(ids, np.int32), np.stack([places, places + 1], 1), hidden)
