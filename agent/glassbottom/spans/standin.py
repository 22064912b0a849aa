"""Times the spans of libraries that use OpenTelemetry's API in a process that has set no provider.

The API then hands out tracers that do nothing until one is set. Ours stands where that nothing is: its spans are timed
like others, but record no attributes of anybody's, have no ids to propagate and go nowhere, so that the application
behaves as without us, and `set_tracer_provider()` later works as if we were not there. Only where spans are to be sent
(otlp_endpoint) the SDK's own tracer takes this place.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .._log import log
from . import otlp
from .ledger import Ledger
from .open_spans import OpenSpans
from .patches import Patches

_tracer: Any = None


def install(api: ModuleType, patches: Patches, ledger: Ledger, spans: OpenSpans) -> str | None:
    """Puts our tracer in the place of the one that does nothing. A sentence when this version has no such place."""
    global _tracer
    find = vars(getattr(api, "ProxyTracer", object)).get("_tracer")
    if not isinstance(find, property) or find.fget is None:
        return (
            "This version of opentelemetry-api has no ProxyTracer._tracer; its spans without a provider are not timed."
        )
    _tracer = _make_tracer(ledger, spans)
    if not getattr(find.fget, "__glassbottom__", False):
        patches.replace(api.ProxyTracer, "_tracer", property(_finding(find.fget)))
    return None


def detach() -> None:
    """Its tracers do nothing again."""
    global _tracer
    _tracer = None


def _finding(original: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def _tracer_now(self: Any) -> Any:
        found = original(self)
        return _tracer if found is self._noop_tracer and _tracer is not None else found

    _tracer_now.__glassbottom__ = True  # type: ignore[attr-defined]
    return _tracer_now


def _make_tracer(ledger: Ledger, spans: OpenSpans) -> Any:
    if ledger.config.otlp_endpoint:
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError as error:
            log().warning("glassbottom: spans are not sent: %s. Install glassbottom[otel].", error)
        else:
            provider = TracerProvider(resource=Resource.create())
            from . import otel

            if otel.listener not in getattr(provider._active_span_processor, "_span_processors", ()):
                otel.listener.attach(*_functions(ledger, spans))
                provider.add_span_processor(otel.listener)
                otlp.export(provider, ledger.config.otlp_endpoint)
            return provider.get_tracer("glassbottom")
    return _timing_tracer(*_functions(ledger, spans))


def _functions(ledger: Ledger, spans: OpenSpans) -> tuple[Callable[..., None], Callable[[Any], None]]:
    from . import listening

    return listening.functions(ledger, spans)


def _timing_tracer(start: Callable[..., None], end: Callable[[Any], None]) -> Any:
    """A tracer whose spans call these two."""
    from opentelemetry.trace import (
        INVALID_SPAN_CONTEXT,
        NonRecordingSpan,
        NoOpTracer,
        SpanKind,
        Status,
        StatusCode,
        get_current_span,
        use_span,
    )

    unset, failed = Status(), Status(StatusCode.ERROR)
    ids = itertools.count(1)

    class TimedSpan(NonRecordingSpan):
        """Not recording, as OpenTelemetry understands it; has the fields that spans.c reads."""

        def __init__(self, name: str, parent: Any, kind: Any, attributes: Any, start_ns: int | None) -> None:
            self._outward = parent.get_span_context() or INVALID_SPAN_CONTEXT
            # Ids of our own: never seen outside, and never those of the SDK's spans, which have a trace.
            super().__init__((0, -next(ids), False))  # type: ignore[arg-type]
            self._parent = parent._context if isinstance(parent, TimedSpan) else None
            self._name = name
            self._kind = kind
            self._attributes = attributes or {}
            self._status = unset
            self._start_time = start_ns or time.time_ns()
            self._end_time: int | None = None

        @property
        def name(self) -> str:
            return self._name

        def get_span_context(self) -> Any:
            """What the no-op span would have: the context that came from outside, if any."""
            return self._outward

        def update_name(self, name: str) -> None:
            self._name = name

        def set_status(self, status: Any, description: str | None = None) -> None:  # noqa: ARG002
            code = status.status_code if isinstance(status, Status) else status
            self._status = failed if code is StatusCode.ERROR else unset

        def end(self, end_time: int | None = None) -> None:
            if self._end_time is None:
                self._end_time = end_time or time.time_ns()
                end(self)

    class TimingTracer(NoOpTracer):
        def start_span(
            self,
            name: str,
            context: Any = None,
            kind: Any = SpanKind.INTERNAL,
            attributes: Any = None,
            links: Any = None,  # noqa: ARG002
            start_time: int | None = None,
            record_exception: bool = True,  # noqa: ARG002
            set_status_on_exception: bool = True,  # noqa: ARG002
        ) -> Any:
            span = TimedSpan(name, get_current_span(context), kind, attributes, start_time)
            start(span)
            return span

        @contextmanager
        def start_as_current_span(  # type: ignore[override]
            self, name: str, *arguments: Any, end_on_exit: bool = True, **named: Any
        ) -> Iterator[Any]:
            span = self.start_span(name, *arguments, **named)
            with use_span(span, end_on_exit=False):
                try:
                    yield span
                except Exception:
                    span.set_status(StatusCode.ERROR)
                    raise
                finally:
                    if end_on_exit:
                        span.end()

    return TimingTracer()
