"""LLM2Vec folders (arXiv 2404.05961): `llm2vec_config.json` beside a merged model or on top of a stack of adapters.

One difference is kept: LLM2Vec finds a text behind its instruction by tokenising it once more alone and counting from
the end, Decant by offsets in one tokenisation. Both pool the same tokens unless the count changes with the context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UnsupportedModelError
from ..spec import Attention, EncoderSpec, Pooling, PromptSpan, TextLimit
from .json_file import read_json

CONFIG_FILE = "llm2vec_config.json"

_POOLING = {
    "mean": Pooling.MEAN,
    "weighted_mean": Pooling.WEIGHTED_MEAN,
    "eos_token": Pooling.LAST,
    "last_token": Pooling.LAST,
    "bos_token": Pooling.FIRST,
}

# What LLM2Vec puts around instruction and text for chat models, by the name of the base model.
_CHAT = {
    "meta-llama/Meta-Llama-3-8B-Instruct": ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    "mistralai/Mistral-7B-Instruct-v0.2": ("[INST] ", " [/INST]"),
    "meta-llama/Llama-2-7b-chat-hf": ("[INST] ", " [/INST]"),
    "google/gemma-2-9b-it": ("<bos><start_of_turn>user\n", "<end_of_turn>"),
    "Qwen/Qwen2-1.5B-Instruct": ("<|im_start|>user\n", "<|im_end|>"),
    "Qwen/Qwen2-7B-Instruct": ("<|im_start|>user\n", "<|im_end|>"),
}
# With `eos_token` pooling, what closes a text, by architecture.
_CLOSING = {"llama": " </s>", "mistral": " </s>", "gemma": "<eos>", "qwen2": "<|endoftext|>"}
_LLAMA_3 = "meta-llama/Meta-Llama-3-8B"


def read_spec(folder: Path, base_name: str, family: str) -> EncoderSpec:
    """Read `llm2vec_config.json`.

    Args:
        folder: where the file lies.
        base_name: hub name of the base model, which LLM2Vec chooses the chat form by.
        family: the base model's architecture.

    Raises:
        ModelError: if the file is broken.
        UnsupportedModelError: for a pooling mode or an option that is not LLM2Vec's.
    """
    config: dict[str, Any] = {
        "pooling_mode": "mean",
        "max_length": 512,
        "doc_max_length": 400,
        "skip_instruction": True,
        **read_json(folder / CONFIG_FILE),
    }
    mode = str(config["pooling_mode"])
    unknown = config.keys() - {"pooling_mode", "max_length", "doc_max_length", "skip_instruction"}
    if mode not in _POOLING or unknown:
        what = f"the keys {sorted(unknown)}" if unknown else f"pooling_mode {mode!r}"
        raise UnsupportedModelError(f"{folder / CONFIG_FILE} has {what}, which Decant cannot honour")
    before, behind = _around(mode, base_name, family)
    pooling = _POOLING[mode]
    return EncoderSpec(
        attention=Attention.BIDIRECTIONAL,
        pooling=pooling,
        prompts=dict.fromkeys(("query", "document"), f"{before}{{instruction}} {{text}}{behind}"),
        bare_prompts=dict.fromkeys(("query", "document"), f"{before}{{text}}{behind}"),
        # The first token is BOS whatever is skipped.
        include_prompt=not config["skip_instruction"] or pooling is Pooling.FIRST,
        prompt_span=PromptSpan.TEXT,
        max_tokens=int(config["max_length"]),
        text_limit=TextLimit(int(config["doc_max_length"]), whole_words=True),
        normalize=False,
    )


def _around(mode: str, base_name: str, family: str) -> tuple[str, str]:
    before, behind = _CHAT.get(base_name, ("", ""))
    if mode == "eos_token" and not base_name.endswith("Llama-3-8B-Instruct"):
        closing = "<|end_of_text|>" if base_name == _LLAMA_3 else _CLOSING.get(family)
        if closing is None:
            raise UnsupportedModelError(f"LLM2Vec says nothing of {family} with pooling_mode eos_token")
        behind += closing
    return before, behind
