"""Puts our span processor into every TracerProvider of OpenTelemetry's SDK, beside what the application puts there.

Into those made from now on by their constructor, so that it does not matter to whom the application gives them; into
one that is set already by looking at the API's global. Nothing is set there: the application's own
set_tracer_provider() stays the first and only one. Where it never comes, standin.py times the spans of the API.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any
from weakref import WeakSet

from . import ledger as ledgers
from . import otlp, standin
from .imports import when_imported
from .ledger import Ledger
from .open_spans import OpenSpans
from .patches import Patches

SDK = "opentelemetry.sdk.trace"
API = "opentelemetry.trace"

_patches = Patches()
_left_alone: list[str] = []
_joined: WeakSet[Any] = WeakSet()
"""Composite processors that ours is in."""
_spans: OpenSpans | None = None


def install(ledger: Ledger, spans: OpenSpans) -> None:
    """At once where OpenTelemetry is imported, else when it is."""
    global _spans
    _spans = spans
    when_imported(SDK, ledger.guard, _sdk)
    when_imported(API, ledger.guard, _api)


def uninstall() -> None:
    """Takes the processor out of every provider again."""
    global _spans
    _spans = None
    _patches.undo()
    _left_alone.clear()
    standin.detach()
    otlp.stop()
    otel = sys.modules.get(f"{__package__}.otel")
    if otel is not None:
        otel.listener.detach()
        for composite in list(_joined):
            _part(composite, otel.listener)
    _joined.clear()


def left_alone() -> list[str]:
    """One sentence for each thing of OpenTelemetry's that is not what we know."""
    return list(_left_alone)


def _sdk(module: ModuleType) -> None:
    ledger, spans = ledgers.current, _spans
    if ledger is None or spans is None:
        return
    from . import listening, otel

    reason = otel.unsupported()
    if reason is not None:
        _left_alone.append(reason)
        return
    otel.listener.attach(*listening.functions(ledger, spans))
    _patches.wrap(module.TracerProvider, "__init__", _joining)
    provider = getattr(sys.modules.get(API), "_TRACER_PROVIDER", None)
    if isinstance(provider, module.TracerProvider):
        _join(provider)


def _api(module: ModuleType) -> None:
    ledger, spans = ledgers.current, _spans
    if ledger is None or spans is None:
        return
    reason = standin.install(module, _patches, ledger, spans)
    if reason is not None:
        _left_alone.append(reason)


def _joining(original: Callable[..., None]) -> Callable[..., None]:
    def __init__(self: Any, *arguments: Any, **named: Any) -> None:  # noqa: N807
        original(self, *arguments, **named)
        ledger = ledgers.current
        if ledger is not None:
            with ledger.guard.guarded("spans.provider"):
                _join(self)

    return __init__


def _join(provider: Any) -> None:
    from .otel import listener

    ledger = ledgers.current
    composite = provider._active_span_processor
    if ledger is None or composite in _joined:
        return
    _joined.add(composite)
    if type(composite).__name__ == "ConcurrentMultiSpanProcessor":
        # It calls processors in threads of its own: no place to set a label or to read a thread's clock.
        _left_alone.append("A TracerProvider with a ConcurrentMultiSpanProcessor is not listened to.")
        return
    if listener not in getattr(composite, "_span_processors", ()):
        provider.add_span_processor(listener)
    if ledger.config.otlp_endpoint:
        otlp.export(provider, ledger.config.otlp_endpoint)


def _part(composite: Any, processor: Any) -> None:
    lock = getattr(composite, "_lock", None)
    if lock is None:
        return  # it stays, and does nothing
    with lock:
        composite._span_processors = tuple(one for one in composite._span_processors if one is not processor)
