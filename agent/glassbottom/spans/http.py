"""A request that came in over HTTP, seen at our own door: its name, its end, and which span it is under.

Named after OpenTelemetry's conventions: "{method} {route}" as soon as a framework tells the route, until then the
method alone, so that no path of a client's ever becomes a name. Where a SERVER span of OpenTelemetry is seen for the
same request, that one counts and ours keeps silent.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextvars import ContextVar
from time import monotonic_ns, time_ns
from typing import Any

from .. import _labels
from . import debug
from . import ledger as ledgers
from .ledger import Ledger
from .open_spans import SpanRecord

WEBSOCKET = "WS"
METHODS = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE", WEBSOCKET)
)
OTHER_METHOD = "HTTP"
"""The convention's name for requests with a method of the client's own invention."""


class Request(SpanRecord):
    """A request or a task of a worker, from its door to its end.

    otel: the record of OpenTelemetry's span for it. route: once it is known. status_code: of the response, 0 before
    there is one. environ: what the server hands in for it, let go of at the end: contexts live longer.
    """

    # What is not set for every request stands here, where it costs nothing.
    otel: SpanRecord | None = None
    kind = "SERVER"
    route = ""
    error = ""
    status_code = 0

    def __init__(self, ledger: Ledger, method: str, environ: Mapping[str, Any] | None) -> None:
        self.name = self.method = method
        self.ledger = ledger
        self.environ = environ

    def end(self, error: BaseException | None = None) -> None:
        """The response is complete, or never will be. Only the first call counts; never raises."""
        if self.done:
            return
        self.done = True
        if self.otel is None:
            try:
                self._record(error)
            except Exception:
                with self.ledger.guard.guarded("spans.request"):
                    raise
        self.environ = None

    def _record(self, error: BaseException | None) -> None:
        ledger, name = self.ledger, self.name
        own_ns = duration_ns = monotonic_ns() - self.start_ns
        if self.children:
            self.covered_ns += max(0, time_ns() - self.since_ns)
        if self.covered_ns:
            own_ns = max(0, duration_ns - self.covered_ns)
        status = "ok"
        if error is not None:
            self.error = type(error).__qualname__
            status = "cancelled" if self.error == "CancelledError" else "error"
        elif self.status_code >= 500 or self.error:
            self.error = self.error or str(self.status_code)
            status = "error"
        if ledger.config.debug:
            debug.ended(self.kind, name, duration_ns / 1e9, status == "error", ledger.config.slow_ms / 1e3)
        found = ledger.names.get(name) or ledger.name(name)
        slot = found.slots.get((self.kind, status, "", ""))
        if slot is None:
            slot = ledger.slot(found, self.kind, status, "", "")
        self.count(ledger.recorder.table, slot, duration_ns, own_ns)
        found.count += 1
        ledger.requests += 1
        if duration_ns > found.floor_ns and self.method != WEBSOCKET:
            ledger.slow(found, duration_ns, own_ns, status, "", self._described)

    def _described(self) -> dict[str, str]:
        environ = self.environ or {}
        attributes: dict[str, Any] = {}
        if self.kind == "SERVER":
            attributes["http.request.method"] = "_OTHER" if self.method == OTHER_METHOD else self.method
            attributes["url.scheme"] = environ.get("scheme") or environ.get("wsgi.url_scheme")
            attributes["network.protocol.version"] = environ.get("http_version")
        else:
            attributes["messaging.system"] = "celery"
            attributes["celery.task_name"] = self.name.removeprefix("celery ")
        attributes["http.route"] = self.route
        attributes["http.response.status_code"] = self.status_code
        attributes["error.type"] = self.error
        return self.ledger.allowed({name: value for name, value in attributes.items() if value})


current_request: ContextVar[SpanRecord | None] = ContextVar("glassbottom.request", default=None)
"""The request that the calling context works on: one of ours, or the record of OpenTelemetry's SERVER or CONSUMER span.
Nothing when it is done: contexts live on in what a request has started."""


def begin(method: str, environ: Mapping[str, Any], in_thread: bool) -> Request | None:
    """A request comes in; None when nobody watches, or when it is part of one that is watched already."""
    ledger = ledgers.current
    if ledger is None:
        return None
    outer = current_request.get()
    if outer is not None and not outer.done:
        return None
    request = Request(ledger, method if method in METHODS else OTHER_METHOD, environ)
    enter(request, in_thread)
    return request


def enter(request: Request, in_thread: bool) -> None:
    """Labels the context. in_thread: this thread works on nothing else meanwhile."""
    name = request.name
    number = _labels.numbers.get(name) or _labels.number(name)
    request.begin(_labels.label, number, current_request, in_thread)
    if request.ledger.config.debug:
        debug.started(request.kind, name)


def leave(request: Request) -> None:
    """The context goes back to what it did before."""
    request.leave(_labels.label, current_request)


def mounted(path: str) -> None:
    """A framework goes on into what is mounted at a path, such as "/admin"."""
    request = current_request.get()
    if request is not None and not request.done:
        request.prefix = (request.prefix or "") + path
        # What is mounted need not have routes.
        _name(request, request.prefix + "/{path}")


def route_known(path: str) -> None:
    """A framework has found where the request of the calling context belongs, such as "/orders/{id}"."""
    request = current_request.get()
    if request is not None and not request.done:
        _name(request, (request.prefix or "") + path)


def _name(request: SpanRecord, route: str) -> None:
    ours = request if isinstance(request, Request) else None
    otel = request if ours is None else ours.otel
    if ours is not None:
        ours.route = route
        ours.name = f"{ours.method} {route}" if route else ours.method
    if otel is None:
        _labels.enter(request.name)
        return
    span = otel.span() if otel.span is not None else None
    name = otel.name if span is None else span.name
    # Its rows go by its own name, which OpenTelemetry's instrumentation may have completed by now. Until then it is the
    # method, at most with more words: "GET", "HTTP POST".
    if "/" not in name:
        name = f"{name.rpartition(' ')[2]} {route}"
    _labels.enter(name)


def loop_runs_here() -> bool:
    """Whether this thread runs an event loop, and so works on other things between two lines of one request."""
    events = sys.modules.get("asyncio.events")
    return events is not None and events._get_running_loop() is not None
