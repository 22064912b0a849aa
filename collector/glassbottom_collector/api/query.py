"""gRPC servicer of Query: fetches what a question is about, and hands it to pure functions.

Reads and arithmetic run in a few threads of its own, so that a long analysis neither stops ingest nor waits behind
other questions without bound. A cancelled call ends its analysis at the next step.
"""

from __future__ import annotations

import asyncio
import functools
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from glassbottom.wire.v1 import query_pb2, query_pb2_grpc

from .. import __version__
from ..errors import BadRequest, NotFound
from ..leaks.detector import find_leaks
from ..leaks.rules import growth_rule_of, steepest
from ..model.heap import HeapState
from ..model.live import LiveInstances
from ..model.process import Span
from ..storage import Reader, StoreStatistics
from . import heap_views, leak_view, profile_view, timeline_view
from .errors import answering, streaming
from .heap_views import Names
from .instances import services, status
from .selection import SECOND_NS, heap_at, instance_of, no_service, range_of

THREADS = 4
LIMIT = 20
LIMIT_MAX = 10_000
RESIDENT = "process.memory.usage"
RESIDENT_S = 600
"""A reading of resident memory so long before a moment still stands for it."""

P = ParamSpec("P")
R = TypeVar("R")


class Query(query_pb2_grpc.QueryServiceServicer):
    """Everything a person can ask. Errors: see query.proto.

    statistics: the store's and ingest's counters, asked for on each Status call, from a thread. clock_ns: now.
    """

    def __init__(
        self,
        reader: Reader,
        live: LiveInstances,
        statistics: Callable[[], StoreStatistics],
        started_at_ns: int,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._reader = reader
        self._live = live
        self._statistics = statistics
        self._started_at_ns = started_at_ns
        self._clock_ns = clock_ns
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="glassbottom-query")

    @answering
    async def ListServices(self, request: Any, context: Any) -> query_pb2.ListServicesResponse:  # noqa: N802, ARG002
        """Services seen in a range, and those connected if it reaches to now."""
        now_ns = self._clock_ns()
        within = range_of(request.range, request.HasField("range"), now_ns)
        found = await self._in_thread(services, self._reader, list(self._live.instances()), within, now_ns)
        return query_pb2.ListServicesResponse(services=found)

    @answering
    async def Status(self, request: Any, context: Any) -> query_pb2.StatusResponse:  # noqa: N802, ARG002
        """The collector's health, and every process connected or seen within the last hour."""
        now_ns = self._clock_ns()
        live = list(self._live.instances())
        instances = await self._in_thread(status, self._reader, live, request.service, now_ns)
        store = await self._in_thread(self._statistics)
        collector = query_pb2.CollectorStatus(
            version=__version__,
            started_at_ns=self._started_at_ns,
            problems=store.problems,
            statistics=dict(store.values),
        )
        return query_pb2.StatusResponse(collector=collector, instances=instances)

    @answering
    async def Top(self, request: Any, context: Any) -> query_pb2.TopResponse:  # noqa: N802, ARG002
        """Who holds memory at a moment."""
        return await self._in_thread(self._top, request)

    @answering
    async def Timeline(self, request: Any, context: Any) -> query_pb2.TimelineResponse:  # noqa: N802, ARG002
        """How a service's memory moved."""
        return await self._in_thread(self._timeline, request)

    @answering
    async def Diff(self, request: Any, context: Any) -> query_pb2.DiffResponse:  # noqa: N802, ARG002
        """What grew between two moments."""
        return await self._in_thread(self._diff, request)

    @streaming
    async def Profile(self, request: Any, context: Any) -> AsyncIterator[query_pb2.ProfileResponse]:  # noqa: N802, ARG002
        """Whole call paths, in pieces."""
        found = await self._in_thread(self._profile, request)
        while (piece := await self._in_thread(next, found, None)) is not None:
            yield piece

    @streaming
    async def Leaks(self, request: Any, context: Any) -> AsyncIterator[query_pb2.LeaksResponse]:  # noqa: N802, ARG002
        """Progress while it works, then the report."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[query_pb2.LeaksResponse] = asyncio.Queue()
        cancelled = threading.Event()

        def tell(stage: str, done: int, total: int) -> None:
            if cancelled.is_set():
                raise _Cancelled
            progress = query_pb2.Progress(stage=stage, done=done, total=total)
            loop.call_soon_threadsafe(messages.put_nowait, query_pb2.LeaksResponse(progress=progress))

        analysis = asyncio.ensure_future(self._in_thread(self._leaks, request, tell))
        analysis.add_done_callback(lambda _: messages.put_nowait(_END))
        try:
            while (message := await messages.get()) is not _END:
                yield message
            yield query_pb2.LeaksResponse(report=await analysis)
        finally:
            cancelled.set()
            # Its thread stops at its next step; nobody is left to hear what it says then.
            analysis.add_done_callback(lambda done: done.cancelled() or done.exception())

    # Below: in threads.

    def _top(self, request: query_pb2.TopRequest) -> query_pb2.TopResponse:
        at_ns = request.at_ns or self._clock_ns()
        states, _ = self._heap_at(request.selector, at_ns)
        names = self._names(states)
        return query_pb2.TopResponse(
            sites=heap_views.top(states, names, _group_by(request.group_by), _limit(request.limit)),
            totals=self._totals(request.selector.service, states, at_ns),
        )

    def _timeline(self, request: query_pb2.TimelineRequest) -> query_pb2.TimelineResponse:
        now_ns = self._clock_ns()
        service = request.selector.service
        within = range_of(request.range, request.HasField("range"), now_ns)
        points = request.points or timeline_view.POINTS
        if points > timeline_view.POINTS_MAX:
            raise BadRequest(f"{points} points are asked for; ask for at most {timeline_view.POINTS_MAX}.")
        if request.sites > timeline_view.SITES_MAX:
            raise BadRequest(f"{request.sites} sites are asked for; ask for at most {timeline_view.SITES_MAX}.")
        instance_id = instance_of(self._reader, request.selector, within, now_ns)
        headers = [
            header
            for header in self._reader.headers(service, within)
            if instance_id is None or header.instance_id == instance_id
        ]
        readings = self._reader.metrics(service, within, [RESIDENT], instance_id)
        if not headers and not any(readings.values()):
            raise NotFound(no_service(self._reader, service, within, now_ns))
        ends = timeline_view.ends_of(within, points)
        live, instances = timeline_view.live_and_instances(headers, ends)
        series = [
            timeline_view.message("live_bytes", live),
            timeline_view.message("resident_bytes", timeline_view.resident(readings, ends)),
            timeline_view.message("instances", instances),
        ]
        if request.sites and headers:
            last_ns = max(header.at_ns for header in headers)
            states = self._reader.heap_at(service, last_ns, instance_id)
            names = self._names(states)
            table = heap_views.Table(states, names, query_pb2.GROUP_BY_LINE)
            largest = {frame: table.stacks(row) for row, frame in table.largest(request.sites)}
            found = timeline_view.sites(self._reader.heap_series(service, within, instance_id), largest, ends)
            series.extend(timeline_view.message(frame.function, values, frame) for frame, values in found)
        return query_pb2.TimelineResponse(at_ns=timeline_view.starts_of(within, points), series=series)

    def _diff(self, request: query_pb2.DiffRequest) -> query_pb2.DiffResponse:
        service = request.selector.service
        after_ns = request.after_ns or self._clock_ns()
        _check_order(request.before_ns, after_ns)
        after, instance_id = self._heap_at(request.selector, after_ns)
        before, _ = self._heap_at(request.selector, request.before_ns)
        names = self._names([*before, *after])
        first_ns = min(state.header.at_ns for state in before)
        hits = growth_rule_of(
            header
            for header in self._reader.headers(service, Span(first_ns, after_ns + 1))
            if instance_id is None or header.instance_id == instance_id
        )
        return query_pb2.DiffResponse(
            changes=heap_views.diff(before, after, names, _group_by(request.group_by), _limit(request.limit)),
            before=self._totals(service, before, request.before_ns),
            after=self._totals(service, after, after_ns),
            rule_hits=leak_view.rule_hits(steepest(hits)),
        )

    def _profile(self, request: query_pb2.ProfileRequest) -> Iterator[query_pb2.ProfileResponse]:
        service = request.selector.service
        at_ns = request.at_ns or self._clock_ns()
        states, _ = self._heap_at(request.selector, at_ns)
        before: Sequence[HeapState] = ()
        totals_before = None
        if request.before_ns:
            _check_order(request.before_ns, at_ns)
            before, _ = self._heap_at(request.selector, request.before_ns)
            totals_before = self._totals(service, before, request.before_ns)
        names = self._names([*states, *before])
        return profile_view.pieces(states, before, names, self._totals(service, states, at_ns), totals_before)

    def _leaks(self, request: query_pb2.LeaksRequest, tell: Callable[[str, int, int], None]) -> query_pb2.LeakReport:
        now_ns = self._clock_ns()
        service = request.selector.service
        within = range_of(request.range, request.HasField("range"), now_ns)
        instance_id = instance_of(self._reader, request.selector, within, now_ns)
        if not self._reader.processes(service, within):
            raise NotFound(no_service(self._reader, service, within, now_ns))
        report = find_leaks(
            self._reader,
            service,
            within,
            instance_id=instance_id,
            include_stable=request.all,
            limit=_limit(request.limit),
            progress=tell,
        )
        end_ns = report.covered.to_ns if report.covered is not None else within.to_ns
        states = self._reader.heap_at(service, end_ns, instance_id)
        names = self._names(states, [stack for finding in report.findings for stack in finding.stacks])
        return leak_view.report_message(report, states, names, self._totals(service, states, end_ns))

    def _heap_at(self, selector: query_pb2.Selector, at_ns: int) -> tuple[Sequence[HeapState], str | None]:
        return heap_at(self._reader, selector, at_ns, self._clock_ns())

    def _names(self, states: Iterable[HeapState], stacks: Iterable[int] = ()) -> Names:
        wanted = set(stacks)
        kinds: set[int] = set()
        for state in states:
            wanted.update(state.sites.stack.tolist())
            kinds.update(state.types.type.tolist())
        known = self._reader.stacks(wanted)
        frames = self._reader.frames({frame for stack in known.values() for frame in stack.frames})
        return Names(known, frames, self._reader.types(kinds))

    def _totals(self, service: str, states: Sequence[HeapState], at_ns: int) -> query_pb2.Totals:
        within = Span(max(at_ns - RESIDENT_S * SECOND_NS, 0), at_ns + 1)
        readings = self._reader.metrics(service, within, [RESIDENT])
        of_interest = {state.header.instance_id for state in states}
        resident = sum(points[-1].value for instance, points in readings.items() if instance in of_interest and points)
        return heap_views.totals(states, resident)

    async def _in_thread(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, functools.partial(function, *args, **kwargs))


class _Cancelled(Exception):  # noqa: N818 - ends an analysis nobody waits for
    """The caller has gone."""


_END = query_pb2.LeaksResponse()


def _limit(limit: int) -> int:
    if limit > LIMIT_MAX:
        raise BadRequest(f"A limit of {limit} is too high; use at most {LIMIT_MAX}.")
    return limit or LIMIT


def _group_by(group_by: int) -> int:
    if group_by not in query_pb2.GroupBy.values():
        raise BadRequest(f"There is no grouping number {group_by}; group by line, function, file or type.")
    return group_by or query_pb2.GROUP_BY_LINE


def _check_order(before_ns: int, after_ns: int) -> None:
    if not before_ns:
        raise BadRequest("The earlier moment is missing; say when to compare with.")
    if before_ns >= after_ns:
        raise BadRequest("The earlier moment is not before the later one; exchange them.")
