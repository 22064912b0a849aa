"""What the live view asks, and a line to the collector that comes back by itself.

Every panel has a line of its own, asked in a thread, so that one slow answer delays nobody else. All lines share one
connection, as gRPC does for channels alike.
"""

from __future__ import annotations

import argparse
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from glassbottom.wire.v1 import operations_pb2, query_pb2

from .. import client
from ..exits import CliError
from ..timespec import SECOND_NS

if TYPE_CHECKING:
    from glassbottom.wire.v1.query_pb2_grpc import QueryServiceStub

Answer = TypeVar("Answer")

RECENT_NS = 600 * SECOND_NS
# Leaks show in hours, and things that went wrong are worth an hour's memory.
LONG_NS = 3600 * SECOND_NS


@dataclass(frozen=True)
class About:
    """Of which processes, as of when (nanoseconds since the Unix epoch), waiting how long for an answer."""

    service: str
    instance: str
    now_ns: int
    timeout_s: float

    @property
    def selector(self) -> query_pb2.Selector:
        """As the wire says it."""
        return query_pb2.Selector(service=self.service, instance_id=self.instance)

    def last(self, ns: int) -> query_pb2.Range:
        """The range of that length that ends now."""
        return query_pb2.Range(from_ns=self.now_ns - ns, to_ns=self.now_ns)


Question = Callable[["QueryServiceStub", About], Answer]


class Line(Generic[Answer]):
    """One question, asked again and again. A channel that failed is thrown away: a new one tries at once, where the old
    one would wait longer each time."""

    def __init__(self, args: argparse.Namespace, question: Question[Answer]) -> None:
        self._args = args
        self._question = question
        self._lock = threading.Lock()
        self._open: ExitStack | None = None
        self._stub: QueryServiceStub | None = None
        self._closed = False

    def ask(self, about: About) -> Answer:
        """The answer; blocks, so it is for a thread. Raises CliError with a sentence."""
        stub = self._connected()
        try:
            return self._question(stub, about)
        except Exception:
            with self._lock:
                opened, self._open, self._stub = self._open, None, None
            # Translates what gRPC raised into a sentence; None when close() came first.
            if opened is None or not opened.__exit__(*sys.exc_info()):
                raise
            raise AssertionError("unreachable") from None

    def close(self) -> None:
        """Ends it for good, and a question under way with it."""
        with self._lock:
            self._closed = True
            opened, self._open, self._stub = self._open, None, None
        if opened is not None:
            opened.close()

    def _connected(self) -> QueryServiceStub:
        with self._lock:
            if self._closed:
                raise CliError("the view is closed.")
            if self._stub is None:
                self._open = ExitStack()
                self._stub = self._open.enter_context(client.querying(self._args))
            return self._stub


def memory(query: QueryServiceStub, about: About) -> query_pb2.TimelineResponse:
    """How memory moved in the last ten minutes."""
    request = query_pb2.TimelineRequest(selector=about.selector, range=about.last(RECENT_NS), points=60)
    return query.Timeline(request, timeout=about.timeout_s)


def loops(query: QueryServiceStub, about: About) -> query_pb2.BlockedResponse:
    """Loop lag, and what held loops in the last ten minutes."""
    request = query_pb2.BlockedRequest(selector=about.selector, range=about.last(RECENT_NS), limit=10)
    return query.Blocked(request, timeout=about.timeout_s)


def tasks(query: QueryServiceStub, about: About) -> query_pb2.TasksResponse:
    """What tasks wait for now."""
    request = query_pb2.TasksRequest(selector=about.selector, at_ns=about.now_ns, limit=20)
    return query.Tasks(request, timeout=about.timeout_s)


def slow(query: QueryServiceStub, about: About) -> query_pb2.SlowResponse:
    """Which spans took long in the last ten minutes."""
    request = query_pb2.SlowRequest(
        selector=about.selector,
        range=about.last(RECENT_NS),
        kinds=[operations_pb2.OPERATION_KIND_SPAN],
        limit=10,
    )
    return query.Slow(request, timeout=about.timeout_s)


def leaks(query: QueryServiceStub, about: About) -> query_pb2.LeakReport:
    """Which lines leak, over the last hour."""
    request = query_pb2.LeaksRequest(selector=about.selector, range=about.last(LONG_NS), limit=10)
    for message in query.Leaks(request, timeout=about.timeout_s):
        if message.HasField("report"):
            return message.report
    raise CliError("the collector ended its answer without a report; its own log says more.")


def findings(query: QueryServiceStub, about: About) -> query_pb2.FindingsResponse:
    """What looks wrong, over the last hour."""
    request = query_pb2.FindingsRequest(selector=about.selector, range=about.last(LONG_NS), limit=20)
    return query.Findings(request, timeout=about.timeout_s)
