"""OpenTelemetry spans for what is answered before the framework, which makes its own for the rest.

The framework configures the tracer from OpenTelemetry's own environment variables when the extra `otel` is installed
(`OTEL_EXPORTER_OTLP_ENDPOINT` and the like). Without a tracer nothing here costs anything.
"""

import time
from collections.abc import Iterable
from functools import cached_property

from opentelemetry import propagate, trace

Target = tuple[str, str | None]


class Tracing:
    """Makes one span for each request, when it is over."""

    def __init__(self) -> None:
        self._tracer = trace.get_tracer("foldserve")

    @cached_property
    def on(self) -> bool:
        """Whether somebody has configured a tracer; to be asked after the start."""
        return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    def write(
        self,
        route: str,
        headers: Iterable[tuple[bytes, bytes]],
        model: tuple[str, str | None],
        status: int,
        took: float,
    ) -> None:
        """A span that ends now.

        Args:
            route: its template.
            headers: of the request, with the W3C trace context that it is part of.
            model: the name and version that the path names.
            status: that was answered.
            took: seconds.
        """
        carrier = {k.decode("latin-1"): v.decode("latin-1") for k, v in headers if k in (b"traceparent", b"tracestate")}
        now = time.time_ns()
        span = self._tracer.start_span(
            f"POST {route}",
            propagate.extract(carrier),
            trace.SpanKind.SERVER,
            {
                "http.request.method": "POST",
                "http.route": route,
                "http.response.status_code": status,
                "foldserve.model": model[0],
                "foldserve.version": model[1] or "",
            },
            start_time=now - round(took * 1e9),
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        span.end(now)
