"""Answers about memory: fetches what a question is about, and hands it to pure functions. Runs in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from glassbottom.wire.v1 import query_pb2

from ..errors import BadRequest, NotFound
from ..leaks.detector import find_leaks
from ..leaks.rules import growth_rule_of, steepest
from ..model.heap import HeapState
from ..model.process import Span
from ..storage import Reader
from . import heap_views, leak_view, profile_view, timeline_view
from .heap_views import Names
from .heapdump_cache import StoredDumps
from .leak_join import LeakJoin
from .selection import SECOND_NS, heap_at, instance_of, limit_of, no_route, no_service, range_of

LIMIT = 20
RESIDENT = "process.memory.usage"
RESIDENT_S = 600
"""A reading of resident memory so long before a moment still stands for it."""


class HeapAnswers:
    """Raises NotFound, BadRequest, and what the reader raises. clock_ns: now. dumps: None where none are stored."""

    def __init__(self, reader: Reader, clock_ns: Callable[[], int], dumps: StoredDumps | None = None) -> None:
        self._reader = reader
        self._clock_ns = clock_ns
        self._join = LeakJoin(reader, dumps)

    def top(self, request: query_pb2.TopRequest) -> query_pb2.TopResponse:
        """Who holds memory at a moment."""
        at_ns = request.at_ns or self._clock_ns()
        states, _ = self._heap_at(request.selector, at_ns)
        names = names_of(self._reader, states)
        return query_pb2.TopResponse(
            sites=heap_views.top(states, names, group_by_of(request.group_by), limit_of(request.limit, LIMIT)),
            totals=self._totals(request.selector.service, states, at_ns),
        )

    def timeline(self, request: query_pb2.TimelineRequest) -> query_pb2.TimelineResponse:
        """How a service's memory moved."""
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
            names = names_of(self._reader, states)
            table = heap_views.Table(states, names, query_pb2.GROUP_BY_LINE)
            largest = {frame: table.stacks(row) for row, frame in table.largest(request.sites)}
            found = timeline_view.sites(self._reader.heap_series(service, within, instance_id), largest, ends)
            series.extend(timeline_view.message(frame.function, values, frame) for frame, values in found)
        return query_pb2.TimelineResponse(at_ns=timeline_view.starts_of(within, points), series=series)

    def diff(self, request: query_pb2.DiffRequest) -> query_pb2.DiffResponse:
        """What grew between two moments."""
        service = request.selector.service
        after_ns = request.after_ns or self._clock_ns()
        _check_order(request.before_ns, after_ns)
        after, instance_id = self._heap_at(request.selector, after_ns)
        before, _ = self._heap_at(request.selector, request.before_ns)
        names = names_of(self._reader, [*before, *after])
        first_ns = min(state.header.at_ns for state in before)
        hits = growth_rule_of(
            header
            for header in self._reader.headers(service, Span(first_ns, after_ns + 1))
            if instance_id is None or header.instance_id == instance_id
        )
        return query_pb2.DiffResponse(
            changes=heap_views.diff(
                before, after, names, group_by_of(request.group_by), limit_of(request.limit, LIMIT)
            ),
            before=self._totals(service, before, request.before_ns),
            after=self._totals(service, after, after_ns),
            rule_hits=leak_view.rule_hits(steepest(hits)),
        )

    def profile(self, request: query_pb2.ProfileRequest) -> Iterator[query_pb2.ProfileResponse]:
        """Live and allocated memory by whole call path, in pieces."""
        service = request.selector.service
        if request.thread:
            raise BadRequest("Memory is not told by thread; leave the thread out, or ask for CPU or wall time.")
        at_ns = request.at_ns or self._clock_ns()
        states, _ = self._heap_at(request.selector, at_ns)
        before: Sequence[HeapState] = ()
        if request.before_ns:
            _check_order(request.before_ns, at_ns)
            before, _ = self._heap_at(request.selector, request.before_ns)
        names = names_of(self._reader, [*states, *before])
        if request.route:
            _check_route(request.route, names)
            states = heap_views.of_route(states, names, request.route)
            before = heap_views.of_route(before, names, request.route)
        totals_before = self._totals(service, before, request.before_ns) if request.before_ns else None
        return profile_view.heap_pieces(states, before, names, self._totals(service, states, at_ns), totals_before)

    def leaks(self, request: query_pb2.LeaksRequest, tell: Callable[[str, int, int], None]) -> query_pb2.LeakReport:
        """Which allocation sites leak; what `tell` raises ends the analysis."""
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
            limit=limit_of(request.limit, LIMIT),
            progress=tell,
        )
        tell("Looking for who holds it", 0, 0)
        report = self._join.joined(report, service)
        end_ns = report.covered.to_ns if report.covered is not None else within.to_ns
        states = self._reader.heap_at(service, end_ns, instance_id)
        names = names_of(self._reader, states, [stack for finding in report.findings for stack in finding.stacks])
        return leak_view.report_message(report, states, names, self._totals(service, states, end_ns))

    def _heap_at(self, selector: query_pb2.Selector, at_ns: int) -> tuple[Sequence[HeapState], str | None]:
        return heap_at(self._reader, selector, at_ns, self._clock_ns())

    def _totals(self, service: str, states: Sequence[HeapState], at_ns: int) -> query_pb2.Totals:
        within = Span(max(at_ns - RESIDENT_S * SECOND_NS, 0), at_ns + 1)
        readings = self._reader.metrics(service, within, [RESIDENT])
        of_interest = {state.header.instance_id for state in states}
        resident = sum(points[-1].value for instance, points in readings.items() if instance in of_interest and points)
        return heap_views.totals(states, resident)


def names_of(reader: Reader, states: Iterable[HeapState], stacks: Iterable[int] = ()) -> Names:
    """Definitions of everything that heaps, and some call paths besides, refer to."""
    wanted = set(stacks)
    kinds: set[int] = set()
    for state in states:
        wanted.update(state.sites.stack.tolist())
        kinds.update(state.types.type.tolist())
    known = reader.stacks(wanted)
    frames = reader.frames({frame for stack in known.values() for frame in stack.frames})
    return Names(known, frames, reader.types(kinds))


def group_by_of(group_by: int) -> int:
    """The grouping asked for, by line when none is. Raises BadRequest."""
    if group_by not in query_pb2.GroupBy.values():
        raise BadRequest(f"There is no grouping number {group_by}; group by line, function, file, type or route.")
    return group_by or query_pb2.GROUP_BY_LINE


def _check_order(before_ns: int, after_ns: int) -> None:
    if not before_ns:
        raise BadRequest("The earlier moment is missing; say when to compare with.")
    if before_ns >= after_ns:
        raise BadRequest("The earlier moment is not before the later one; exchange them.")


def _check_route(route: str, names: Names) -> None:
    known = sorted({stack.label for stack in names.stacks.values() if stack.label})
    if route not in known:
        raise NotFound(no_route(route, known))
