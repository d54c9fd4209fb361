"""Attention of a few queries over long cached context."""

from .dispatched import cross_attention
from .layout import CrossLayout, SplitPlan
from .packed import packed_cross_attention

__all__ = ["CrossLayout", "SplitPlan", "cross_attention", "packed_cross_attention"]
