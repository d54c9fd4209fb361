"""What the server counts and measures, in Prometheus' terms. No label holds a text, a key or an id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, start_http_server

from .errors import ServiceError
from .queue import BatchQueue, Priority

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)
_COUNTS = tuple(float(2**i) for i in range(17))
_SHARES = tuple(i / 10 for i in range(1, 11))


class Metrics:
    """All metrics of one server, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        calls = ["protocol", "method", "model"]
        self.requests = Counter("decant_requests", "Calls answered", [*calls, "code"], registry=registry)
        self.request_seconds = Histogram(
            "decant_request_seconds", "From the call to its answer", calls, buckets=_SECONDS, registry=registry
        )
        self.stage_seconds = Histogram(
            "decant_stage_seconds", "Where a call's time went", ["stage"], buckets=_SECONDS, registry=registry
        )
        self.input_tokens = Histogram(
            "decant_input_tokens", "Tokens per text", ["model"], buckets=_COUNTS, registry=registry
        )
        self.truncated = Counter("decant_truncated", "Texts that were cut", ["model"], registry=registry)
        self.dropped = Counter("decant_dropped", "Calls not served, by reason", ["reason"], registry=registry)
        self.queue_tokens = Gauge("decant_queue_tokens", "Tokens waiting", ["model", "priority"], registry=registry)
        self.queue_requests = Gauge(
            "decant_queue_requests", "Calls of which something waits", ["model", "priority"], registry=registry
        )
        self.batch_tokens = Histogram(
            "decant_batch_tokens", "Tokens per batch", ["model"], buckets=_COUNTS, registry=registry
        )
        self.batch_texts = Histogram(
            "decant_batch_texts", "Texts per batch", ["model"], buckets=_COUNTS, registry=registry
        )
        self.batch_fill = Histogram(
            "decant_batch_fill", "Share of the token budget used", ["model"], buckets=_SHARES, registry=registry
        )
        self.encoded_tokens = Counter("decant_encoded_tokens", "Tokens encoded", ["model", "device"], registry=registry)
        self.busy_seconds = Counter(
            "decant_encode_busy_seconds", "Time spent encoding", ["model", "device"], registry=registry
        )
        model = ["model", "fingerprint", "dtype", "device"]
        self.model_info = Gauge("decant_model_info", "1 for each model served", model, registry=registry)
        self.model_loaded = Gauge("decant_model_loaded", "1 while the model answers", ["model"], registry=registry)
        self.index_chunks = Gauge("decant_index_chunks", "Passages in the store", ["store"], registry=registry)
        self.search_seconds = Histogram(
            "decant_search_seconds", "Search without encoding", ["mode"], buckets=_SECONDS, registry=registry
        )
        self.citations = Counter("decant_citations", "Citations in answers, all of them checked", registry=registry)
        self.documents = Counter("decant_documents", "Documents written", ["store", "result"], registry=registry)
        for reason in ("overloaded", "expired", "cancelled", "shutdown"):
            self.dropped.labels(reason)

    def call(self, protocol: str, method: str, model: str, code: str, seconds: float) -> None:
        """Count one answered call."""
        self.requests.labels(protocol, method, model, code).inc()
        self.request_seconds.labels(protocol, method, model).observe(seconds)

    def observer(self, model: str, device: str, budget_tokens: int) -> ModelObserver:
        """Return what a model's queue reports to."""
        return ModelObserver(self, model, device, budget_tokens)

    def watch(self, model: str, queue: BatchQueue[Any, Any]) -> None:
        """Read a queue's length whenever the metrics are read."""
        for priority in Priority:
            labels = (model, priority.name.lower())
            self.queue_tokens.labels(*labels).set_function(_reading(queue.tokens, priority))
            self.queue_requests.labels(*labels).set_function(_reading(queue.requests, priority))

    def forget(self, model: str) -> None:
        """Let go of a model that was unloaded: what reads its queue would keep it in memory."""
        self.model_loaded.labels(model).set(0)
        for priority in Priority:
            self.queue_tokens.remove(model, priority.name.lower())
            self.queue_requests.remove(model, priority.name.lower())

    def listen(self, host: str, port: int) -> Callable[[], None]:
        """Show them at a port of their own too; return what closes it.

        Raises:
            ServiceError: the port cannot be used.
        """
        try:
            server, thread = start_http_server(port, host, self.registry)
        except OSError as error:
            why = f"cannot listen on {host}:{port} for metrics: {error.strerror}"
            raise ServiceError(f"{why}; choose another metrics_port") from None

        def close() -> None:
            server.shutdown()
            thread.join()
            server.server_close()

        return close

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self.registry)


class ModelObserver:
    """One model's `queue.Observer`."""

    def __init__(self, metrics: Metrics, model: str, device: str, budget_tokens: int) -> None:
        self._dropped = metrics.dropped
        self._tokens = metrics.batch_tokens.labels(model)
        self._texts = metrics.batch_texts.labels(model)
        self._fill = metrics.batch_fill.labels(model)
        self._encoded = metrics.encoded_tokens.labels(model, device)
        self._busy = metrics.busy_seconds.labels(model, device)
        self._budget = budget_tokens

    def batch(self, texts: int, tokens: int, seconds: float) -> None:
        """A batch was computed."""
        self._texts.observe(texts)
        self._tokens.observe(tokens)
        self._fill.observe(min(tokens / self._budget, 1.0))
        self._encoded.inc(tokens)
        self._busy.inc(seconds)

    def dropped(self, reason: str) -> None:
        """A call was not served."""
        self._dropped.labels(reason).inc()


def _reading(read: Callable[[Priority], int], priority: Priority) -> Callable[[], float]:
    return lambda: float(read(priority))
