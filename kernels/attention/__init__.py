"""Variable-length attention over packed batches."""

from .interface import ATTENTION_NAME, register
from .layout import PackedLayout
from .packed import packed_attention

__all__ = ["ATTENTION_NAME", "PackedLayout", "packed_attention", "register"]
