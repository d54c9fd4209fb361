"""What a training of cross-attention blocks is set to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


@dataclass(frozen=True)
class XcRecipe:
    """Train cross-attention blocks on a frozen decoder that also encodes the passages.

    Attributes:
        model: folder of a Llama-like causal language model.
        questions: file of questions below the data folder.
        dev_articles: articles held out for development.
        paragraphs: paragraphs trained on; 0 for all.
        blocks, stride, hidden, heads, kv_heads, inner, gate: see `XcConfig`.
        from_self_attention: begin from the decoder's own projections, as CEPE does.
        repeat_share: share of steps whose target is the passage itself.
        teacher_weight: weight of the divergence from the decoder with the passage in its prompt.
        context_tokens: a passage is cut to so many.
    """

    step: ClassVar[str] = "xc"
    model: str
    seed: int = 0
    questions: str = "pairs/squad-train.jsonl.gz"
    dev_articles: int = 22
    paragraphs: int = 0
    blocks: int = 4
    stride: int = 6
    hidden: int = 1024
    heads: int = 32
    kv_heads: int = 32
    inner: int = 4096
    gate: bool = True
    from_self_attention: bool = True
    repeat_share: float = 0.5
    teacher_weight: float = 0.0
    context_tokens: int = 256
    batch_questions: int = 16
    steps: int = 2_000
    learning_rate: float = 2e-4
    warmup_steps: int = 100
    checkpoint_steps: int = 100
