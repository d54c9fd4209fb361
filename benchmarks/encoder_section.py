"""Whole encoders at the shapes of published models, with random weights, beside sentence-transformers.

`one query` is a text alone, as a search sends it: plainly, and as a CUDA graph (`DECANT_KERNELS=forward=graph`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
from measuring import Bench

from decant.embedder.formats.folder import DEFAULT_MODEL
from decant.kernels.dispatch import OVERRIDE

MODELS: dict[str, dict[str, Any]] = {
    "decant-mini": json.loads((DEFAULT_MODEL / "config.json").read_text("utf-8")),
    "qwen3-0.6b": {
        "model_type": "qwen3", "hidden_size": 1024, "intermediate_size": 3072, "num_hidden_layers": 28,
        "num_attention_heads": 16, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
    },
    "mistral-7b": {
        "model_type": "mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 32000,
    },
}  # fmt: skip
MIN_COSINE = 0.999


def race_encoders(bench: Bench) -> None:
    """Texts per second through `Encoder.encode` and `SentenceTransformer.encode`, on equal weights and texts."""
    from encode import lowest_cosine, text_sets

    for name, shape in MODELS.items():
        if bench.toy and name != "decant-mini":
            continue
        if bench.has("encoder", f"{name} mixed", "sentence-transformers") or bench.time_left() < 60:
            continue
        encoder, reference = pair(bench, shape)
        sets = text_sets((8 if bench.toy else 512 if name == "mistral-7b" else 4096) / 500)
        sets = {"mixed": sets["mixed"], "short": sets["short"], "one query": sets["short"][:1]}
        for kind, texts in sets.items():
            mine, theirs = encoder.encode(texts), reference.encode(texts, batch_size=64, convert_to_tensor=True)
            cosine = lowest_cosine(mine.dense, theirs.float().cpu().numpy())
            tokens = int(mine.tokens.sum())
            if cosine < MIN_COSINE:
                print(f"WRONG encoder: {name} {kind}: cosine {cosine:.5f}", flush=True)
                bench.put("encoder", f"{name} {kind}", "decant", {"failed": f"vectors disagree: cosine {cosine:.5f}"})
                continue
            linear = sum(p.numel() for p in encoder.backbone.model.layers.parameters())
            flops = 2.0 * linear * tokens
            calls: dict[str, Callable[[], object]] = {
                "decant": lambda texts=texts: encoder.encode(texts),  # noqa: B023
                "sentence-transformers": lambda texts=texts: reference.encode(texts, batch_size=64),  # noqa: B023
            }
            for contestant, call in calls.items():
                bench.measure("encoder", f"{name} {kind}", contestant, call, flops=flops)
            if kind == "one query" and bench.device.type == "cuda":
                record(encoder)
                bench.measure("encoder", f"{name} {kind}", "decant, graph", calls["decant"], flops=flops)
        encoder = reference = None  # a model of 7B must go before the next one comes
        if bench.device.type == "cuda":
            torch.cuda.empty_cache()


def record(encoder: Any) -> None:
    """Let an encoder's forwards of small batches be recorded, as the environment variable does when it is loaded."""
    with patch.dict(os.environ, {OVERRIDE: "forward=graph"}):
        encoder.backbone.prepare()


def pair(bench: Bench, shape: dict[str, Any]) -> tuple[Any, Any]:
    """Our encoder and a SentenceTransformer over the same random weights; tokenizer and rules are decant-mini's."""
    from copy import deepcopy
    from dataclasses import replace

    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig, AutoModel

    from decant.embedder import Encoder
    from decant.embedder.backbone import Backbone
    from decant.embedder.head import Head
    from decant.embedder.spec import Attention
    from decant.kernels.attention import register

    ours = ("model_type", "max_position_embeddings", "is_causal", "dtype", "transformers_version", "architectures")
    options = {key: value for key, value in shape.items() if key not in ours}
    if bench.toy:
        options["num_hidden_layers"] = 1
    config = AutoConfig.for_model(shape["model_type"], **options, is_causal=False, max_position_embeddings=4096)
    config.sliding_window = None
    dtype = torch.bfloat16
    with bench.device:
        torch.manual_seed(0)
        packed = AutoModel.from_config(config, dtype=dtype, attn_implementation=register())
    with torch.device("meta"):
        padded = AutoModel.from_config(deepcopy(config), dtype=dtype, attn_implementation="sdpa")
    padded.load_state_dict(packed.state_dict(), assign=True)
    padded.rotary_emb = packed.rotary_emb  # its buffers are in no state
    encoder = Encoder.load(device=str(bench.device), dtype=dtype, verify=False)
    # The mean of the states and nothing behind it: decant-mini's last layer has decant-mini's width.
    spec = replace(encoder.spec, dimensions=(), default_dimension=None, dense=(), sparse=None)
    encoder.backbone = Backbone(packed, Attention.BIDIRECTIONAL)
    encoder.head = Head(spec, options["hidden_size"]).to(bench.device)
    reference = SentenceTransformer(str(encoder.path), device=str(bench.device), model_kwargs={"dtype": dtype})
    first = reference[0]
    first.model = padded.eval()
    return encoder, SentenceTransformer(modules=[first, reference[1]], device=str(bench.device))
