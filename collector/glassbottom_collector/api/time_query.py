"""Answers about time: what takes long, what tasks wait for, what held loops, where threads are, and what is wrong.

Fetches what a question is about, and hands it to pure functions. Runs in threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from glassbottom.wire.v1 import query_pb2

from ..errors import BadRequest, NotFound
from ..findings import finder
from ..model.process import ProcessSeen, Span
from ..storage import Reader
from ..timing import blocks
from ..timing.operations import Summary, covered_by, summaries
from ..timing.places import look_up, of_observations
from . import profile_view, slow_view, tasks_view
from .blocked_view import block_message
from .findings_view import finding_message
from .heap_query import names_of
from .heap_views import Names, live_bytes_by_route
from .selection import SECOND_NS, instance_of, limit_of, moment, no_route, no_service, range_of

SLOW, TASK_GROUPS, BLOCKS, FINDINGS = 10, 50, 20, 50
"""Rows when no limit is given."""
BEFORE_S = 600
"""How long before a moment tasks, lag and samples of threads still stand for it."""


class TimeAnswers:
    """Raises NotFound, BadRequest, and what the reader raises. clock_ns: now."""

    def __init__(self, reader: Reader, clock_ns: Callable[[], int]) -> None:
        self._reader = reader
        self._clock_ns = clock_ns

    def slow(self, request: query_pb2.SlowRequest) -> query_pb2.SlowResponse:
        """What takes long, most self time first."""
        limit = limit_of(request.limit, SLOW)
        kinds, thresholds = slow_view.kinds_of(request), slow_view.thresholds_of(request)
        service, within, instance_id, _ = self._selected(request.selector, request)
        totals = self._reader.operation_totals(service, within, instance_id).values()
        found = summaries(totals, thresholds, kinds)
        shown = found[:limit]
        live = self._live_bytes(service, within, instance_id, shown)
        places = look_up(self._reader, frames=(each.key.frame for each in shown))
        seen = self._reader.observations(service, within, [slow_view.SPAN_KIND], instance_id)
        return query_pb2.SlowResponse(
            operations=[slow_view.operation(each, places, live) for each in shown],
            slow_spans=slow_view.slow_spans(seen, limit),
            operations_total=len(found),
            covered=_range(covered_by(totals)),
        )

    def tasks(self, request: query_pb2.TasksRequest) -> query_pb2.TasksResponse:
        """What every task waits for, and what is wrong with tasks."""
        limit = limit_of(request.limit, TASK_GROUPS)
        at_ns = request.at_ns or self._clock_ns()
        service, before = request.selector.service, _before(at_ns)
        instance_id, _ = self._instance(request.selector, before)
        looks = self._reader.tasks(service, before, instance_id)
        places = look_up(self._reader, frames=tasks_view.frames_of(looks))
        report = finder.find(self._reader, service, before, instance_id, finder.TASKS)
        return query_pb2.TasksResponse(
            processes=tasks_view.processes(looks, places, limit),
            findings=[finding_message(each) for each in report.findings],
        )

    def blocked(self, request: query_pb2.BlockedRequest) -> query_pb2.BlockedResponse:
        """What held event loops, most time first."""
        limit = limit_of(request.limit, BLOCKS)
        service, within, instance_id, seen = self._selected(request.selector, request)
        found = blocks.counted(self._reader.observations(service, within, [blocks.KIND], instance_id))
        grouped = blocks.blocks(found, of_observations(self._reader, found))
        return query_pb2.BlockedResponse(
            blocks=[block_message(each) for each in grouped[:limit]],
            loops=tasks_view.loops(self._reader.tasks(service, within, instance_id)),
            total_s=sum(each.total_s for each in grouped),
            covered=_range(_covered(seen, within)),
        )

    def findings(self, request: query_pb2.FindingsRequest) -> query_pb2.FindingsResponse:
        """Everything that looks wrong, worst first."""
        limit = limit_of(request.limit, FINDINGS)
        service, within, instance_id, _ = self._selected(request.selector, request)
        report = finder.find(self._reader, service, within, instance_id)
        left_out = len(report.findings) - limit
        notes = [*report.notes, *([f"{left_out} more findings are left out; raise the limit."] if left_out > 0 else [])]
        return query_pb2.FindingsResponse(
            findings=[finding_message(each) for each in report.findings[:limit]],
            covered=_range(report.covered),
            notes=notes,
        )

    def profile(self, request: query_pb2.ProfileRequest) -> Iterator[query_pb2.ProfileResponse]:
        """CPU and wall time of threads by whole call path, in pieces."""
        if request.before_ns:
            raise BadRequest("Time is not compared with an earlier moment; leave it out, or ask for memory.")
        to_ns = request.at_ns or self._clock_ns()
        from_ns = request.from_ns or max(to_ns - BEFORE_S * SECOND_NS, 0)
        if from_ns >= to_ns:
            raise BadRequest(f"The range ends ({moment(to_ns)}) before it begins ({moment(from_ns)}); exchange them.")
        # Intervals that end at the last moment belong to it.
        within = Span(from_ns, to_ns + 1)
        instance_id, seen = self._instance(request.selector, within)
        time = self._reader.thread_time(request.selector.service, within, instance_id)
        known = self._reader.stacks(set(time.stack.tolist()))
        frames = self._reader.frames({frame for stack in known.values() for frame in stack.frames})
        names = Names(known, frames, {})
        routes = sorted({stack.label for stack in known.values() if stack.label})
        if request.route and request.route not in routes:
            raise NotFound(no_route(request.route, routes))
        threads = sorted(set(time.thread.tolist()))
        if request.thread and request.thread not in threads:
            raise NotFound(
                f"No thread named {request.thread!r} was sampled; there are {', '.join(threads[:20]) or 'none'}."
            )
        totals = query_pb2.Totals(samples=int(time.samples.sum()), instances=len(seen), at_ns=from_ns)
        return profile_view.time_pieces(time, names, totals, request.route, request.thread)

    def _selected(
        self,
        selector: query_pb2.Selector,
        request: query_pb2.SlowRequest | query_pb2.BlockedRequest | query_pb2.FindingsRequest,
    ) -> tuple[str, Span, str | None, Sequence[ProcessSeen]]:
        """Service, range, the instance meant (None for all), and its processes, at least one."""
        within = range_of(request.range, request.HasField("range"), self._clock_ns())
        instance_id, seen = self._instance(selector, within)
        return selector.service, within, instance_id, seen

    def _instance(self, selector: query_pb2.Selector, within: Span) -> tuple[str | None, Sequence[ProcessSeen]]:
        now_ns = self._clock_ns()
        instance_id = instance_of(self._reader, selector, within, now_ns)
        seen = self._reader.processes(selector.service, within)
        if not seen:
            raise NotFound(no_service(self._reader, selector.service, within, now_ns))
        return instance_id, [each for each in seen if instance_id in (None, each.process.instance_id)]

    def _live_bytes(
        self, service: str, within: Span, instance_id: str | None, shown: Sequence[Summary]
    ) -> dict[str, float]:
        """By route, at the end of the range; read only when an entry span is shown."""
        if not any(each.is_entry for each in shown):
            return {}
        states = self._reader.heap_at(service, min(within.to_ns, self._clock_ns()), instance_id)
        return live_bytes_by_route(states, names_of(self._reader, states))


def _before(at_ns: int) -> Span:
    return Span(max(at_ns - BEFORE_S * SECOND_NS, 0), at_ns + 1)


def _covered(seen: Sequence[ProcessSeen], within: Span) -> Span | None:
    first = max(min(each.first_seen_ns for each in seen), within.from_ns)
    last = min(max(each.last_seen_ns for each in seen) + 1, within.to_ns)
    return Span(first, last) if last > first else None


def _range(span: Span | None) -> query_pb2.Range | None:
    return None if span is None else query_pb2.Range(from_ns=span.from_ns, to_ns=span.to_ns)
