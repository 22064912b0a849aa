"""A request that came in over HTTP, seen at our own door: its name, its end, and which span it is under.

Named after OpenTelemetry's conventions: "{method} {route}" as soon as a framework tells the route, until then the
method alone, so that no path of a client's ever becomes a name. Where a SERVER span of OpenTelemetry is seen for the
same request, that one counts and ours keeps silent.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from contextvars import ContextVar, Token
from typing import Any

from .. import _labels
from . import debug
from . import ledger as ledgers
from .ledger import Ledger
from .open_spans import SpanRecord

METHODS = frozenset(("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"))
OTHER_METHOD = "HTTP"
"""The convention's name for requests with a method of the client's own invention."""
WEBSOCKET = "WS"


class Request(SpanRecord):
    """A request or a task of a worker, from its door to its end.

    otel: the record of OpenTelemetry's span for it. route: once it is known. status_code: of the response, 0 before
    there is one. environ: WSGI's.
    """

    __slots__ = (
        "attributes",
        "began_ns",
        "environ",
        "error",
        "kind",
        "ledger",
        "method",
        "otel",
        "request_token",
        "route",
        "status_code",
    )

    def __init__(self, method: str, kind: str = "SERVER") -> None:
        self.name = self.method = method
        self.otel: SpanRecord | None = None
        self.kind = kind
        self.route = self.error = ""
        self.status_code = 0
        self.environ: Any = None
        self.attributes: Mapping[str, Any] = {}

    def begin(self, ledger: Ledger, in_thread: bool) -> None:
        """Labels the context. in_thread: this thread works on nothing else meanwhile."""
        self.ledger = ledger
        self.token: Token[int] | None = _labels.enter(self.name)
        self.request_token: Token[SpanRecord | None] = current_request.set(self)
        if in_thread:
            self.measure_thread()
        if ledger.config.debug:
            debug.started(self.kind, self.name)
        self.began_ns = time.perf_counter_ns()

    def end(self, error: BaseException | None = None) -> None:
        """The response is complete, or never will be. Only the first call counts; never raises."""
        if self.done:
            return
        self.done = True
        try:
            if self.otel is None:
                self._record(error)
        except Exception:
            with self.ledger.guard.guarded("spans.request"):
                raise

    def leave(self) -> None:
        """The context goes back to what it did before."""
        _labels.leave(self.token)
        try:
            current_request.reset(self.request_token)
        except ValueError:  # another context, where it never was
            return

    def _record(self, error: BaseException | None) -> None:
        ledger = self.ledger
        duration_ns = time.perf_counter_ns() - self.began_ns
        if self.children:
            self.covered_ns += max(0, time.time_ns() - self.since_ns)
        own_ns = max(0, duration_ns - self.covered_ns)
        status = "ok"
        if error is not None:
            self.error = type(error).__qualname__
            status = "cancelled" if self.error == "CancelledError" else "error"
        elif self.status_code >= 500 or self.error:
            self.error = self.error or str(self.status_code)
            status = "error"
        if ledger.config.debug:
            debug.ended(self.kind, self.name, duration_ns / 1e9, status == "error", ledger.config.slow_ms / 1e3)
        found = ledger.name(self.name)
        slot = ledger.slot(found, self.kind, status, "", "")
        self.count(ledger.recorder.table, slot, duration_ns, own_ns)
        found.count += 1
        ledger.requests += 1
        if duration_ns > found.floor_ns and self.method != WEBSOCKET:
            ledger.slow(found, duration_ns, own_ns, status, "", self._described)

    def _described(self) -> dict[str, str]:
        attributes = dict(self.attributes)
        if self.kind == "SERVER":
            attributes["http.request.method"] = "_OTHER" if self.method == OTHER_METHOD else self.method
        if self.route:
            attributes["http.route"] = self.route
        if self.status_code:
            attributes["http.response.status_code"] = self.status_code
        if self.error:
            attributes["error.type"] = self.error
        return self.ledger.allowed(attributes)


current_request: ContextVar[SpanRecord | None] = ContextVar("glassbottom.request", default=None)
"""The request that the calling context works on: one of ours, or the record of OpenTelemetry's SERVER or CONSUMER span.
Nothing when it is done: contexts live on in what a request has started."""


def begin(method: str, *, in_thread: bool, attributes: Mapping[str, Any]) -> Request | None:
    """A request comes in; None when nobody watches, or when it is part of one that is watched already."""
    ledger = ledgers.current
    if ledger is None:
        return None
    outer = current_request.get()
    if outer is not None and not outer.done:
        return None
    request = Request(method if method in METHODS or method == WEBSOCKET else OTHER_METHOD)
    request.attributes = attributes
    request.begin(ledger, in_thread)
    return request


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
