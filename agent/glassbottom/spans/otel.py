"""Listens to OpenTelemetry's spans: a span processor that only counts, beside the application's own exporters.

Imported where the application has imported the SDK. Of a span the fields are read (listening.py, spans.c), not the
properties, which are the same objects behind a function call; a version of the SDK in which they are called otherwise
is left alone (`unsupported`).
"""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.trace import Status

from .listening import End, Start

FIELDS = ("_name", "_context", "_parent", "_kind", "_start_time", "_end_time", "_attributes", "_status")


def _ignore(span: Any, parent_context: Any = None) -> None:
    pass


class Listener(SpanProcessor):
    """The processor of this process: one, however many providers and however many lives of the agent.

    on_start and on_end are attributes, so that one look-up finds the function that is meant now.
    """

    def __init__(self) -> None:
        self.detach()
        # The SDK calls this for each span too. Any function in C that takes one argument costs less than the empty one
        # we would inherit.
        self._on_ending = callable  # type: ignore[method-assign, assignment]

    def attach(self, start: Start, end: End) -> None:
        """From now on spans go there."""
        self.on_start = start  # type: ignore[method-assign]
        self.on_end = end  # type: ignore[method-assign, assignment]

    def detach(self) -> None:
        """Spans go nowhere."""
        self.on_start = _ignore  # type: ignore[method-assign]
        self.on_end = _ignore  # type: ignore[method-assign]

    def shutdown(self) -> None:
        """Nothing is held that would need it."""

    def force_flush(self, timeout_millis: int = 30000) -> bool:  # noqa: ARG002 - the SDK's signature
        """Nothing waits."""
        return True


listener = Listener()


def unsupported() -> str | None:
    """Why this version of the SDK cannot be listened to, if so."""
    probe = ReadableSpan("", resource=_NO_RESOURCE)  # type: ignore[arg-type]
    missing = [field for field in FIELDS if not hasattr(probe, field)]
    if not hasattr(Status(), "_status_code"):
        missing.append("_status._status_code")
    if missing:
        return f"This version of opentelemetry-sdk has spans without {', '.join(missing)}; they are not listened to."
    return None


_NO_RESOURCE = object()
