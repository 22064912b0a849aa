"""What is done at the start and the end of a span: the rare part of it. What happens at every span is in C (spans.c).

Needs of OpenTelemetry the API only; the fields read are those of the SDK's spans, and of standin.py's.
"""

from __future__ import annotations

from asyncio import _get_running_loop
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.trace import SpanKind, StatusCode

from .. import _labels
from .._native import Request, SpanListener, SpanRecord
from . import debug
from .http import current_request, now
from .ledger import Ledger, Name
from .open_spans import OPEN_MAX, OpenSpans, Place, named

Start = Callable[..., None]
End = Callable[[Any], None]


class Host:
    """What spans.c asks of Python. All in the application's threads."""

    def __init__(self, ledger: Ledger, spans: OpenSpans) -> None:
        self._ledger = ledger
        self._inherited: dict[str, SpanRecord] = {}
        self._suspects = spans.suspects
        self.make_room = spans.make_room
        self.place: Callable[[str], Place | None] = spans.place
        self.name: Callable[[str], Name] = ledger.name
        self.slot = ledger.slot

    def number(self, name: str) -> int:
        """Of a label not met before."""
        return _labels.number(name)

    def enter(self, record: SpanRecord) -> None:
        """A request, or the like, begins within another."""
        outer = now()
        if isinstance(outer, Request):
            # Our own door is outside: it keeps silent, and knows whose name to go by.
            outer.otel = record
        record.token = _labels.enter(record.name)

    def outermost(self, record: SpanRecord) -> None:
        """A span without a parent here, in a context that works on something: part of that."""
        request = now()
        if isinstance(request, Request) and not request.done and request.otel is None:
            record.above = record.entry = request
            if not request.children:
                request.since_ns = record.start_ns
            request.children += 1
            return
        label = _labels.current_name()
        if label in self._suspects:
            # Left behind by a span that never ended: nobody works on that any more.
            record.token = _labels.enter(record.name)
        elif label:
            entry = self._inherited.get(label)
            if entry is None:
                entry = self._inherited[label] = named(label)
            record.entry = entry

    def slow(self, name: Name, duration_ns: int, own_ns: int, status: str, route: str, span: Any) -> None:
        """One that took longer than the floor of its name."""
        attributes = span._attributes or {}
        if is_connection(attributes):
            return

        def describe() -> Mapping[str, str]:
            trace_id, span_id = span._context[:2]
            ids = {"trace_id": f"{trace_id:032x}", "span_id": f"{span_id:016x}"} if span_id else {}
            return {**ids, **self._ledger.allowed(attributes)}

        self._ledger.slow(name, duration_ns, own_ns, status, route, describe)

    def failed(self, where: str, error: Exception) -> None:
        """Something of ours went wrong."""
        with self._ledger.guard.guarded(where):
            raise error


def functions(ledger: Ledger, spans: OpenSpans) -> tuple[Start, End]:
    """What is to be done at the start and at the end of a span. Neither raises."""
    table = ledger.recorder.table
    assert table is not None, "nobody listens without the C core"
    native = SpanListener(
        host=Host(ledger, spans),
        table=table,
        names=ledger.names,
        records=spans.records,
        suspects=spans.suspects,
        numbers=_labels.numbers,
        label=_labels.label,
        request=current_request,
        running_loop=_get_running_loop,
        failed=StatusCode.ERROR,
        kinds=(SpanKind.SERVER, SpanKind.CONSUMER, SpanKind.CLIENT, SpanKind.PRODUCER),
        open_max=OPEN_MAX,
    )
    if ledger.config.debug:
        return debug.logging_functions(ledger, native.on_start, native.on_end)
    return native.on_start, native.on_end


def is_connection(attributes: Mapping[str, Any]) -> bool:
    """Whether the span is a WebSocket connection: long, and not slow."""
    return (attributes.get("url.scheme") or attributes.get("http.scheme")) in ("ws", "wss")
