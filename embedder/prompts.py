"""Prompt rules of published models, as data: what their makers put around a text, and how they pool it.

Folders rarely say all of it. A rule is applied where the user names it, never by guessing from a model's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import InputError
from .spec import Attention, EncoderSpec, Pooling, PromptSpan, Rewrite

WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
QUESTION = "Given a question, retrieve passages that answer the question"


@dataclass(frozen=True)
class PromptRule:
    """How one published model wants its texts.

    Attributes:
        source: where the rule is written down.
        changes: the fields of an `EncoderSpec` it sets; the others stay as the folder has them.
        max_tokens: the longest text its makers advise; None for no advice.
    """

    source: str
    changes: Mapping[str, Any]
    max_tokens: int | None = None


_PLAIN: dict[str, Any] = {
    "bare_prompts": {},
    "example": "",
    "instruction": "",
    "include_prompt": True,
    "prompt_span": PromptSpan.OFFSETS,
    "append_eos": False,
    "rewrite": Rewrite.NONE,
    "normalize": True,
}
_CAUSAL_LAST: dict[str, Any] = {**_PLAIN, "attention": Attention.CAUSAL, "pooling": Pooling.LAST}
_BIDIRECTIONAL_MEAN: dict[str, Any] = {**_PLAIN, "attention": Attention.BIDIRECTIONAL, "pooling": Pooling.MEAN}

RULES: Mapping[str, PromptRule] = {
    "e5-mistral": PromptRule(
        "https://huggingface.co/intfloat/e5-mistral-7b-instruct",
        {
            **_CAUSAL_LAST,
            "append_eos": True,
            "instruction": WEB_SEARCH,
            "prompts": {"query": "Instruct: {instruction}\nQuery: ", "document": ""},
        },
        max_tokens=4096,
    ),
    # No space behind "Query:"; the tokenizer's own template closes the text with <|endoftext|>.
    "qwen3-embedding": PromptRule(
        "https://huggingface.co/Qwen/Qwen3-Embedding-0.6B",
        {
            **_CAUSAL_LAST,
            "instruction": WEB_SEARCH,
            "prompts": {"query": "Instruct: {instruction}\nQuery:", "document": ""},
        },
        max_tokens=32768,
    ),
    "nv-embed": PromptRule(
        "https://huggingface.co/nvidia/NV-Embed-v2",
        {
            **_BIDIRECTIONAL_MEAN,
            "append_eos": True,
            "include_prompt": False,
            "prompt_span": PromptSpan.BARE_TOKENS,
            "instruction": QUESTION,
            "prompts": {"query": "Instruct: {instruction}\nQuery: ", "document": ""},
            "bare_prompts": {"query": ""},
        },
        max_tokens=32768,
    ),
    "llama-embed-nemotron": PromptRule(
        "https://huggingface.co/nvidia/llama-embed-nemotron-8b",
        {
            **_BIDIRECTIONAL_MEAN,
            "instruction": QUESTION,
            "prompts": {"query": "Instruct: {instruction}\nQuery: ", "document": ""},
        },
    ),
    "nemotron-3-embed": PromptRule(
        "https://huggingface.co/nvidia/Nemotron-3-Embed-1B",
        {**_BIDIRECTIONAL_MEAN, "prompts": {"query": "query: ", "document": "passage: "}},
    ),
    "embeddinggemma": PromptRule(
        "https://huggingface.co/google/embeddinggemma-300m",
        {
            **_BIDIRECTIONAL_MEAN,
            "instruction": "search result",
            "prompts": {"query": "task: {instruction} | query: ", "document": "title: none | text: "},
        },
        max_tokens=2048,
    ),
    "bge-en-icl": PromptRule(
        "https://huggingface.co/BAAI/bge-en-icl",
        {
            **_CAUSAL_LAST,
            "append_eos": True,
            "instruction": WEB_SEARCH + ".",
            "prompts": {
                "query": "{examples}<instruct>{instruction}\n<query>{text}\n<response>",
                "document": "",
            },
            "example": "<instruct>{instruction}\n<query>{query}\n<response>{passage}\n\n",
        },
    ),
    # Examples are retrieved for the query at hand, the nearest written last (arXiv 2410.20088).
    "rare": PromptRule(
        "https://github.com/atutej/RARe",
        {
            **_CAUSAL_LAST,
            "append_eos": True,
            "instruction": WEB_SEARCH,
            "prompts": {"query": "Instruct: {instruction}\n{examples}Query: ", "document": ""},
            "example": "Query: {query}\nPositive Document: {passage}\n\n",
        },
    ),
    "gritlm": PromptRule(
        "https://github.com/ContextualAI/gritlm",
        {
            **_BIDIRECTIONAL_MEAN,
            "include_prompt": False,
            "prompt_span": PromptSpan.TOKENS,
            "prompts": {kind: "<|user|>\n{instruction}\n<|embed|>\n" for kind in ("query", "document")},
            "bare_prompts": {kind: "<|embed|>\n" for kind in ("query", "document")},
        },
        max_tokens=2048,
    ),
    # For any decoder, untrained: the second copy of a text has seen all of the first (arXiv 2402.15449).
    "echo": PromptRule(
        "https://github.com/jakespringer/echo-embeddings",
        {
            **_CAUSAL_LAST,
            "pooling": Pooling.MEAN,
            "append_eos": True,
            "include_prompt": False,
            "instruction": "Retrieve passages that answer the question",
            "prompts": {
                "query": "Instruct:{instruction},\nQuery:{text}\nQuery again:{text}",
                "document": "Document:{text}\nDocument again:{text}",
            },
        },
    ),
    # For any decoder, untrained: the state that would predict the one word (arXiv 2307.16645), and for a mixture of
    # experts the routers' choice there (arXiv 2410.10814).
    "prompt-eol": PromptRule(
        "https://github.com/kongds/scaling_sentemb",
        {
            **_CAUSAL_LAST,
            "rewrite": Rewrite.SENTENCE,
            "prompts": dict.fromkeys(("query", "document"), 'This sentence : "{text}" means in one word:"'),
        },
    ),
}


def apply_rule(name: str, spec: EncoderSpec) -> EncoderSpec:
    """Return `spec` with the rule `name` put over it; limits stay where they are lower than the rule's.

    Raises:
        InputError: for an unknown rule.
    """
    rule = RULES.get(name)
    if rule is None:
        raise InputError(f"unknown prompt rule {name!r}: choose from {', '.join(sorted(RULES))}")
    return replace(spec, **rule.changes, max_tokens=min(spec.max_tokens, rule.max_tokens or spec.max_tokens))
