"""Traces by OpenTelemetry: a span per call, continued from the caller's `traceparent`; nothing where it is not wanted.

Spans hold names, numbers and ids; never a text, a key or a document.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, Literal, Protocol

from .errors import ServiceError

Where = Literal["none", "otlp", "console"]
Attributes = Mapping[str, str | int | float | bool]


class Span(Protocol):
    """What a door may say about its call."""

    def set_attributes(self, attributes: Attributes) -> None:
        """Add facts."""
        ...


class Tracer(Protocol):
    """Makes spans."""

    @contextmanager
    def span(self, name: str, carrier: Mapping[str, str]) -> Generator[Span]:
        """A call's span, child of the one that the carrier's `traceparent` names."""
        ...

    def close(self) -> None:
        """Send what is left."""
        ...


class _NoSpan:
    def set_attributes(self, attributes: Attributes) -> None: ...


class NoTracer:
    """Where traces are not wanted."""

    _span = _NoSpan()

    @contextmanager
    def span(self, name: str, carrier: Mapping[str, str]) -> Generator[Span]:
        """Nothing."""
        yield self._span

    def close(self) -> None:
        """Nothing."""


class OpenTelemetryTracer:
    """Spans by the OpenTelemetry SDK."""

    def __init__(self, processor: Any) -> None:
        """Take a span processor, which decides where spans go."""
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "decant"}))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("decant.service")
        self._propagator = TraceContextTextMapPropagator()

    @contextmanager
    def span(self, name: str, carrier: Mapping[str, str]) -> Generator[Span]:
        """See `Tracer.span`."""
        from opentelemetry.trace import SpanKind

        parent = self._propagator.extract(carrier)
        # Not made current: an answer that is streamed ends in another context than it began in.
        made = self._tracer.start_span(name, parent, SpanKind.SERVER)
        try:
            yield made  # pyright: ignore[reportReturnType]  (the SDK's type asks for a dict where any mapping does)
        finally:
            made.end()

    def close(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


def make_tracer(where: Where) -> Tracer:
    """Return the tracer of a setting.

    Raises:
        ServiceError: a package is missing, and which.
    """
    if where == "none":
        return NoTracer()
    try:
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter

        if where == "console":
            import sys

            return OpenTelemetryTracer(BatchSpanProcessor(ConsoleSpanExporter(out=sys.stderr)))
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[import-not-found]
            OTLPSpanExporter,
        )

        return OpenTelemetryTracer(BatchSpanProcessor(OTLPSpanExporter()))
    except ImportError as error:
        raise ServiceError(f"traces = {where!r} needs the package {error.name}: pip install 'decant[traces]'") from None
