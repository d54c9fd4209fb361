"""`Backend`: what stands behind every door, and the one line that each call leaves in the log."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .asking import Asking
from .caller import Caller
from .config import Settings
from .keys import KeyRing
from .metrics import Metrics
from .models import Models
from .stores import Stores
from .tracing import Tracer

_log = logging.getLogger("decant.requests")


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

    def record(
        self, protocol: str, method: str, model: str, code: str, caller: Caller, seconds: float, *, failed: bool
    ) -> None:
        """Count an answered call, and log it where that is wanted; nothing of what was asked is written down."""
        self.metrics.call(protocol, method, model, code, seconds)
        wanted = self.settings.log_requests
        if wanted == "all" or (failed and wanted == "failed"):
            _log.info(
                method,
                extra={
                    "protocol": protocol,
                    "code": code,
                    "milliseconds": round(seconds * 1000, 1),
                    "request_id": caller.request_id,
                    "tenant": caller.tenant,
                    "model": model,
                },
            )
