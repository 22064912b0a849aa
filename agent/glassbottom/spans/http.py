"""Requests that came in over HTTP, seen at our own door: their names, and what is rare about them.

Named after OpenTelemetry's conventions: "{method} {route}" as soon as a framework tells the route, until then the
method alone, so that no path of a client's ever becomes a name. Where a SERVER span of OpenTelemetry is seen for the
same request, that one counts and ours keeps silent. What happens at every request is in C (requests.c).
"""

from __future__ import annotations

import sys
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from .. import _labels
from . import debug
from .ledger import Ledger, Name
from .open_spans import SpanRecord

if TYPE_CHECKING:
    from .._native import Request, RequestDesk, RequestTicket

METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
OTHER_METHOD = "HTTP"
"""The convention's name for requests with a method of the client's own invention."""

current_request: ContextVar[RequestTicket | None] = ContextVar("glassbottom.request", default=None)
"""Leads to the request that the calling context works on; now() follows it."""

desk: RequestDesk | None = None
"""Where requests are written down; None when nobody watches. Whatever is wrapped around an application asks here."""


def now() -> SpanRecord | None:
    """The request that the calling context works on: one of ours, or the record of OpenTelemetry's SERVER or CONSUMER
    span. None when it is closed: contexts live on in what a request has started."""
    ticket = current_request.get()
    return None if ticket is None else ticket.record


def attach(ledger: Ledger) -> None:
    """From now on requests are written down there."""
    global desk
    from .._native import RequestDesk

    assert ledger.recorder.table is not None, "nobody watches without the C core"
    desk = ledger.desk = RequestDesk(
        host=Host(ledger),
        table=ledger.recorder.table,
        names=ledger.names,
        numbers=_labels.numbers,
        label=_labels.label,
        request=current_request,
        methods=METHODS,
        other_method=OTHER_METHOD,
        is_logged=ledger.config.debug,
    )


def detach() -> None:
    """Requests pass by unseen."""
    global desk
    desk = None


class Host:
    """What requests.c asks of Python. All in the application's threads."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self.number = _labels.number
        self.name = ledger.name
        self.slot = ledger.slot

    def named(self, record: SpanRecord, route: str) -> None:
        """The route of a request for which OpenTelemetry has a span of its own."""
        otel = getattr(record, "otel", None) or record
        span = otel.span() if otel.span is not None else None
        name = otel.name if span is None else span.name
        # Its rows go by its own name, which OpenTelemetry's instrumentation may have completed by now. Until then it
        # is the method, at most with more words: "GET", "HTTP POST".
        if "/" not in name:
            name = f"{name.rpartition(' ')[2]} {route}"
        _labels.enter(name)

    def slow(self, request: Request, name: Name, duration_ns: int, own_ns: int, status: str) -> None:
        """One that took longer than the floor of its name."""
        self._ledger.slow(name, duration_ns, own_ns, status, "", lambda: self._ledger.allowed(_attributes(request)))

    def began(self, request: Request) -> None:
        """Of the debug mode."""
        debug.started(_kind(request), request.name)

    def ended(self, request: Request, duration_ns: int, status: str) -> None:
        """Of the debug mode."""
        slow_s = self._ledger.config.slow_ms / 1e3
        debug.ended(_kind(request), request.name, duration_ns / 1e9, status == "error", slow_s)

    def failed(self, where: str, error: Exception) -> None:
        """Something of ours went wrong."""
        with self._ledger.guard.guarded(where):
            raise error


def _kind(request: Request) -> str:
    return "CONSUMER" if request.is_task else "SERVER"


def _attributes(request: Request) -> dict[str, Any]:
    environ = request.environ or {}
    error = request.error
    attributes: dict[str, Any] = {
        "http.route": request.route,
        "http.response.status_code": request.status_code,
        "error.type": error.__qualname__ if isinstance(error, type) else error,
    }
    if request.is_task:
        attributes["messaging.system"] = "celery"
        attributes["celery.task_name"] = request.name.removeprefix("celery ")
    else:
        attributes["http.request.method"] = "_OTHER" if request.method == OTHER_METHOD else request.method
        attributes["url.scheme"] = environ.get("scheme") or environ.get("wsgi.url_scheme")
        attributes["network.protocol.version"] = environ.get("http_version")
    if request.status_code >= 500 and not error:
        attributes["error.type"] = str(request.status_code)
    return {name: value for name, value in attributes.items() if value}


def loop_runs_here() -> bool:
    """Whether this thread runs an event loop, and so works on other things between two lines of one request."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None
