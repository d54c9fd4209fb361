"""Variable-length attention over packed batches."""

from .dispatched import attention, attention_lse
from .interface import ATTENTION_NAME, register
from .layout import PackedLayout
from .packed import packed_attention, packed_attention_lse
from .ragged import Ragged

__all__ = [
    "ATTENTION_NAME",
    "PackedLayout",
    "Ragged",
    "attention",
    "attention_lse",
    "packed_attention",
    "packed_attention_lse",
    "register",
]
