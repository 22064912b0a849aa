"""Sends spans to an OTLP endpoint as well, with OpenTelemetry's own exporter, for a service that has set up none.

What is not installed is said once, with what to install. gRPC's exporter brings grpcio into the process, whose locks do
not survive a fork; so it is HTTP unless the endpoint asks for gRPC.
"""

from __future__ import annotations

import threading
from typing import Any
from urllib.parse import urlsplit

from .._log import log

GRPC_PORT = 4317
TRACES_PATH = "/v1/traces"

_processors: list[Any] = []
_missing_said = False


def export(provider: Any, endpoint: str) -> None:
    """Adds a BatchSpanProcessor with an exporter to the provider."""
    global _missing_said
    try:
        exporter = _exporter(endpoint)
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        if not _missing_said:
            _missing_said = True
            # Not the endpoint: there may be a password in it.
            log().warning("glassbottom: spans are not sent to otlp_endpoint: %s. Install glassbottom[otel].", error)
        return
    processor = BatchSpanProcessor(exporter)
    provider.add_span_processor(processor)
    _processors.append(processor)


def stop() -> None:
    """Ends the exporters. An endpoint that does not answer holds nobody up: they flush in a thread that is not waited
    for."""
    while _processors:
        threading.Thread(target=_processors.pop().shutdown, name="glassbottom-otlp-end", daemon=True).start()


def uses_grpc(endpoint: str) -> bool:
    """By its scheme, grpc or grpcs, or else by its port."""
    parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
    return parts.scheme in ("grpc", "grpcs") or (not parts.scheme and parts.port == GRPC_PORT)


def http_address(endpoint: str) -> str:
    """With a scheme, and the path that OTLP prescribes unless there is another."""
    with_scheme = endpoint if "://" in endpoint else f"http://{endpoint}"
    return with_scheme if urlsplit(with_scheme).path.strip("/") else with_scheme.rstrip("/") + TRACES_PATH


def _exporter(endpoint: str) -> Any:
    if uses_grpc(endpoint):
        from opentelemetry.exporter.otlp.proto.grpc import trace_exporter  # type: ignore[import-not-found, unused-ignore]

        parts = urlsplit(endpoint if "://" in endpoint else f"//{endpoint}")
        return trace_exporter.OTLPSpanExporter(endpoint=parts.netloc, insecure=parts.scheme != "grpcs")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter(endpoint=http_address(endpoint))
