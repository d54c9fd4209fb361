"""What is known of decoder families that do not behave like the rest; `verify` proves the others on the loaded model.

Measured on transformers 5.23.0 with tiny random weights; tests/embedder/test_families.py repeats the measurements, so
an upgrade of transformers shows what changed.
"""

from __future__ import annotations

CAUSAL_BY_CONSTRUCTION = "its layers read left to right whatever the configuration says"
PARTLY_CAUSAL = "its attention layers become bidirectional, its recurrent or convolution layers stay causal"

# Families that cannot become bidirectional, and why. Loading them as causal encoders is allowed.
NOT_BIDIRECTIONAL: dict[str, str] = {
    "gpt_neo": "its attention carries a fixed causal mask",
    "openai-gpt": "its attention carries a fixed causal mask",
    "llama4": "its chunked layers are bidirectional for short texts only",
    "llama4_text": "its chunked layers are bidirectional for short texts only",
    "mamba": CAUSAL_BY_CONSTRUCTION,
    "mamba2": CAUSAL_BY_CONSTRUCTION,
    "falcon_mamba": CAUSAL_BY_CONSTRUCTION,
    "rwkv": CAUSAL_BY_CONSTRUCTION,
    "recurrent_gemma": PARTLY_CAUSAL,
    "qwen3_next": PARTLY_CAUSAL,
    "qwen3_5_text": PARTLY_CAUSAL,
    "lfm2": PARTLY_CAUSAL,
    "falcon_h1": PARTLY_CAUSAL,
    "minimax": PARTLY_CAUSAL,
    "jamba": PARTLY_CAUSAL,
    "bamba": PARTLY_CAUSAL,
    "zamba": PARTLY_CAUSAL,
    "zamba2": PARTLY_CAUSAL,
    "granitemoehybrid": PARTLY_CAUSAL,
    "nemotron_h": PARTLY_CAUSAL,
    "olmo_hybrid": PARTLY_CAUSAL,
    "qwen3_5_moe_text": PARTLY_CAUSAL,
    "qwen4_exp_text": PARTLY_CAUSAL,
    "kimi_linear": PARTLY_CAUSAL,
    "lfm2_moe": PARTLY_CAUSAL,
    "lfm3": PARTLY_CAUSAL,
    "bailing_hybrid": PARTLY_CAUSAL,
    "xlstm": CAUSAL_BY_CONSTRUCTION,
}

# Families whose forward cannot take a packed batch, and why. They run on batches of equally long texts instead, with
# the attention transformers gives them: no padding either, only fewer texts a batch.
NOT_PACKED: dict[str, str] = {
    "bloom": "ALiBi biases are built outside the attention function",
    "mpt": "ALiBi biases are built outside the attention function",
    "gptj": "its attention does not go through transformers' attention interface",
    "codegen": "its attention does not go through transformers' attention interface",
    "xglm": "its attention does not go through transformers' attention interface",
    "gpt_neo": "its attention does not go through transformers' attention interface",
    "falcon": "its attention does not go through transformers' attention interface",
    "gpt_neox_japanese": "its attention does not go through transformers' attention interface",
    "openai-gpt": "its attention does not go through transformers' attention interface",
    "mpnet": "its attention does not go through transformers' attention interface",
    "rembert": "its attention does not go through transformers' attention interface",
    "roformer": "its attention does not go through transformers' attention interface",
    "doge": "its attention builds a mask of its own",
    "phimoe": "it has a sliding window and does not tell attention of it",
    "deepseek_v32": "its indexer needs a mask",
    "glm_moe_dsa": "its indexer needs a mask",
    "axk2": "its indexer needs a mask",
    "hy_v4": "its indexer needs a mask",
    "stablelm": "its layers do not pass keyword arguments on to attention",
    "nemotron": "its layers do not pass keyword arguments on to attention",
    "llama4_text": "its chunked layers need a mask of their own",
    **{
        family: "its recurrent layers would run across the texts of a packed batch"
        for family, reason in NOT_BIDIRECTIONAL.items()
        if reason in (PARTLY_CAUSAL, CAUSAL_BY_CONSTRUCTION)
    },
}

# Families whose own attention crashes on the mask that transformers leaves out where nothing is hidden: run by it,
# their texts get one padding token, which nobody sees.
NEEDS_PADDING: frozenset[str] = frozenset(("mpt", "modernbert-decoder"))

# Families that sentence-transformers, or whoever runs the stock class with its default attention, cannot run as a
# bidirectional encoder, and why: the saved folder leads it to Decant.
NOT_PLAIN: dict[str, str] = {
    "nemotron": "its attention is causal wherever a batch has no padding",
    "stablelm": "its attention is causal wherever a batch has no padding",
    "mpt": "it fails wherever a batch has no padding",
}

# Families that hand attention a bidirectional window one wider than their mask's, for flash-attention takes one off.
WINDOW_ONE_WIDER: frozenset[str] = frozenset(("modernbert",))

# Families whose learned positions do not start at 0 but behind the index of the padding token.
POSITIONS_FROM_PADDING: frozenset[str] = frozenset(
    ("roberta", "xlm-roberta", "xlm-roberta-xl", "mpnet", "camembert", "data2vec-text", "roberta-prelayernorm")
)

# Architectures published with Python code of their own that is a stock one without its causal mask: loaded as that,
# with the code left alone. NVIDIA's Llama-Embed-Nemotron and its siblings.
BIDIRECTIONAL_COPIES: dict[str, str] = {"llama_bidirec": "llama"}
