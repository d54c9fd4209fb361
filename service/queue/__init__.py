"""The one queue between all doors and one encoder: fair, bounded, batched by tokens, never in the event loop's way."""

from .batching import BatchQueue, Observer, Outcome
from .lanes import Lanes, Limits, Priority, Request, Work

__all__ = ["BatchQueue", "Lanes", "Limits", "Observer", "Outcome", "Priority", "Request", "Work"]
