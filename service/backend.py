"""`Backend`: what stands behind every door, and the one line that each call leaves in the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from .asking import Asking
from .caller import Caller
from .config import Settings
from .keys import KeyRing
from .metrics import Metrics
from .models import Models
from .stores import Stores
from .tracing import Tracer

_log = logging.getLogger("decant.requests")
_FULL = frozenset(("RESOURCE_EXHAUSTED", "429"))
_PAUSE_SECONDS = 1.0


class Refusals:
    """Thins the lines of calls that found the server full: thousands a second would cost what refusing them saves."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._next = -float("inf")
        self._kept_back = 0

    def line(self) -> int | None:
        """How many lines were kept back before this one; None if it is kept back itself."""
        now = self._clock()
        if now < self._next:
            self._kept_back += 1
            return None
        kept_back, self._kept_back = self._kept_back, 0
        self._next = now + _PAUSE_SECONDS
        return kept_back


@dataclass(frozen=True)
class Backend:
    """Models, stores and rules of one server, shared by its doors."""

    settings: Settings
    models: Models
    stores: Stores
    asking: Asking
    keys: KeyRing
    metrics: Metrics
    tracer: Tracer
    refusals: Refusals = field(default_factory=Refusals)

    def record(
        self, protocol: str, method: str, model: str, code: str, caller: Caller, seconds: float, *, failed: bool
    ) -> None:
        """Count an answered call, and log it where that is wanted; nothing of what was asked is written down."""
        self.metrics.call(protocol, method, model, code, seconds)
        wanted = self.settings.log_requests
        if wanted == "none" or (wanted == "failed" and not failed):
            return
        facts: dict[str, object] = {"protocol": protocol, "code": code, "milliseconds": round(seconds * 1000, 1)}
        if wanted == "failed" and code in _FULL:
            kept_back = self.refusals.line()
            if kept_back is None:
                return
            facts["more_refused"] = kept_back
        who = {"request_id": caller.request_id, "tenant": caller.tenant, "model": model}
        _log.info(method, extra={**facts, **who})
