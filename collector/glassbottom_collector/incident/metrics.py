"""metrics/metrics.json: the window before the incident in steps of a minute, from what the collector has kept.

Every series has a name (OpenTelemetry's semantic conventions where they have one, `glassbottom.` before our own), a
unit as OpenTelemetry writes them (UCUM: `By`, `s`, `1`), attributes, and one value a minute. A minute in which nobody
measured is null. The newest minutes are read first: when the time is over, it is the oldest that are missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..model.heap import F64
from ..model.process import ProcessSeen, Span
from ..model.timing import Ended, Histogram, Operation, OperationKind
from ..storage import Reader
from ..timing.histograms import merged, quantiles
from ..timing.steps import Curve, Steps, curves, last, rate, steps_of
from .history import UNITS, Reading
from .parts import CollectingError, Planned, Sink
from .plain import plain

PATH = "metrics/metrics.json"
INSTANCES_MAX = 64
OPERATIONS_MAX = 20
LOOKS_STEPS = 5
"""Looks at tasks are read for so many steps at once: they are large."""
KEPT_BACK_S = 1.0
"""Of the time given, for writing the file."""

GAUGES = {
    "process.memory.usage": "By",
    "process.memory.virtual": "By",
    "glassbottom.memory.pss": "By",
    "glassbottom.memory.limit": "By",
    "container.memory.usage": "By",
    "container.memory.working_set": "By",
    "container.memory.limit": "By",
    "container.cpu.limit": "{cpu}",
    "system.memory.limit": "By",
    "system.linux.memory.available": "By",
    "process.thread.count": "{thread}",
    "process.unix.file_descriptor.count": "{file_descriptor}",
    "glassbottom.socket.count": "{connection}",
}
"""Told as they were last in the minute."""
RATES = {
    "process.cpu.time": ("process.cpu.usage", "{cpu}", ("cpu.mode",)),
    "container.cpu.throttled_time": ("container.cpu.throttled_ratio", "1", ()),
    "cpython.gc.pause_time": ("glassbottom.gc.pause_ratio", "1", ("cpython.gc.generation",)),
    "glassbottom.gil.wait_time": ("glassbottom.gil.wait_ratio", "1", ()),
}
"""Counters of seconds, told as seconds per second: the name and unit of that, and what is added up."""
REQUESTS = frozenset({"SERVER", "CONSUMER"})
QUANTILES = (("0.5", 0.5), ("0.95", 0.95), ("0.99", 0.99))


@dataclass(frozen=True)
class Series:
    """One line of a chart; values: (count,), NaN where nothing is known."""

    name: str
    unit: str
    values: F64
    attributes: Mapping[str, str] = field(default_factory=dict)


class Pace:
    """Whether there is time for one more piece of work that takes no longer than the longest so far."""

    def __init__(self, stop_s: float, monotonic_s: Callable[[], float]) -> None:
        self._stop_s = stop_s
        self._monotonic_s = monotonic_s
        self._last_s: float | None = None
        self._longest_s = 0.0

    def has_time(self) -> bool:
        """Asked before each piece."""
        now_s = self._monotonic_s()
        if self._last_s is not None:
            self._longest_s = max(self._longest_s, now_s - self._last_s)
        self._last_s = now_s
        return now_s + self._longest_s < self._stop_s


@dataclass
class MetricsCollector:
    """Implements parts.Collector. history: readings of databases and caches, by the name of the source."""

    reader: Reader
    service: str
    within: Span
    history: Callable[[], Mapping[str, Sequence[Reading]]] = dict
    monotonic_s: Callable[[], float] = time.monotonic
    budget_s: float = 12.0
    name: str = "metrics"

    def plan(self) -> Sequence[Planned]:
        steps = steps_of(self.within)
        what = f"{steps.count} steps of {steps.step_ns // 10**9} s: CPU, memory, requests, event loops, databases"
        return [
            Planned(f"{what} of {self.service}", "the store of the collector", "collector", "medium", self.budget_s)
        ]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        steps = steps_of(self.within)
        whole = Span(max(steps.from_ns, 0), steps.to_ns)
        seen = self.reader.processes(self.service, whole)
        if len(seen) > INSTANCES_MAX:
            sink.note(f"Of {len(seen)} processes the {INSTANCES_MAX} that were heard of last are in {PATH}.")
            seen = sorted(seen, key=lambda one: one.last_seen_ns)[-INSTANCES_MAX:]
        pace = Pace(deadline_s - KEPT_BACK_S, self.monotonic_s)
        found = list(processes(self.reader, self.service, seen, steps))
        requests = Requests(steps)
        reached = requests.read(self.reader, self.service, pace.has_time)
        if reached:
            sink.note(f"There was no time to read the requests of the first {reached} of {steps.count} minutes.")
        found.extend(requests.series())
        unread, lag = loops(self.reader, self.service, steps, pace.has_time)
        if unread:
            sink.note(f"There was no time to read the event loops of the first {unread} of {steps.count} minutes.")
        found.extend(lag)
        for source, readings in sorted(self.history().items()):
            found.extend(of_history(source, readings, steps))
        sink.json(PATH, document(self.service, steps, found), node="the store of the collector", role="collector")
        if not seen:
            raise CollectingError(
                f"{self.service} told nothing in this window: is the name right, and does the agent run in it?"
            )


def document(service: str, steps: Steps, found: Iterable[Series]) -> dict[str, Any]:
    """The file. Times in nanoseconds since the Unix epoch; at_ns: beginnings of the steps."""
    return {
        "schema": "glassbottom.incident.metrics/1",
        "service": service,
        "from_ns": steps.from_ns,
        "to_ns": steps.to_ns,
        "step_s": steps.step_ns // 10**9,
        "at_ns": steps.edges[:-1].tolist(),
        "series": [
            {"name": one.name, "unit": one.unit, "attributes": dict(one.attributes), "values": plain(one.values)}
            for one in found
            if not np.isnan(one.values).all()
        ],
    }


# --- Processes ---


def processes(reader: Reader, service: str, seen: Sequence[ProcessSeen], steps: Steps) -> Iterable[Series]:
    """What each process told of itself, and how many there were and began."""
    # A counter needs the reading before the first step.
    within = Span(max(steps.from_ns - steps.step_ns, 0), steps.to_ns)
    alive = np.zeros(steps.count)
    known = {one.process.instance_id for one in seen}
    for instance_id, points in reader.metrics(service, within, [*GAUGES, *RATES]).items():
        if instance_id not in known:
            continue
        told = np.zeros(steps.count, dtype=bool)
        for (name, attributes), curve in curves(p for p in points if p.name in GAUGES).items():
            values = last(curve, steps)
            told |= ~np.isnan(values)
            yield Series(name, GAUGES[name], values, {"service.instance.id": instance_id, **dict(attributes)})
        for counter, (name, unit, together) in RATES.items():
            for (_, attributes), curve in curves((p for p in points if p.name == counter), together).items():
                own = {"service.instance.id": instance_id, **dict(attributes)}
                yield Series(name, unit, rate(curve, steps), own)
        alive += told
    began = np.zeros(steps.count)
    for one in seen:
        step = steps.of(one.process.started_at_ns)
        if 0 <= step < steps.count:
            began[step] += 1
    # Where nobody told anything, nobody knows whether a process began: it may have ended before it was heard.
    silent = alive == 0
    yield Series("glassbottom.process.count", "{process}", np.where(silent, math.nan, alive))
    yield Series("glassbottom.process.starts", "{process}", np.where(silent & (began == 0), math.nan, began))


# --- Requests ---


@dataclass
class _Tally:
    """Requests of one name, or all, by step: how many, how many failed, and quantiles."""

    count: F64
    errors: F64
    quantiles: dict[str, F64]
    total_s: float = 0.0


class Requests:
    """Spans of kind SERVER and CONSUMER, summed over processes."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._all = self._tally()
        self._by_name: dict[tuple[str, str], _Tally] = {}
        self._covered = np.zeros(steps.count)

    def read(self, reader: Reader, service: str, has_time: Callable[[], bool]) -> int:
        """Newest step first; how many were not reached."""
        steps = self._steps
        within = Span(max(steps.from_ns, 0), steps.to_ns)
        ended = reader.ended(service, within, OperationKind.SPAN)
        self._covered = covered_s(ended.values(), steps)
        for step in range(steps.count - 1, -1, -1):
            if not self._covered[step]:
                continue
            if not has_time():
                self._covered[: step + 1] = 0.0
                return step + 1
            totals = reader.operation_totals(service, steps.span(step))
            rows = [row for total in totals.values() for row in total.rows]
            self._add(step, [r for r in rows if r.kind is OperationKind.SPAN and r.span_kind in REQUESTS])
        return 0

    def series(self) -> Iterable[Series]:
        """All requests together, and those of the names that took the most time in all."""
        yield from self._told(self._all, {})
        ranked = sorted(self._by_name.items(), key=lambda item: (-item[1].total_s, item[0]))
        for (kind, name), tally in ranked[:OPERATIONS_MAX]:
            yield from self._told(tally, {"span.kind": kind, "span.name": name})

    def _tally(self) -> _Tally:
        count = self._steps.count
        return _Tally(np.zeros(count), np.zeros(count), {name: np.full(count, math.nan) for name, _ in QUANTILES})

    def _add(self, step: int, rows: Sequence[Operation]) -> None:
        self._add_to(self._all, step, rows)
        by_name: dict[tuple[str, str], list[Operation]] = {}
        for row in rows:
            by_name.setdefault((row.span_kind, row.name), []).append(row)
        for key, mine in by_name.items():
            self._add_to(self._by_name.setdefault(key, self._tally()), step, mine)

    def _add_to(self, tally: _Tally, step: int, rows: Sequence[Operation]) -> None:
        duration: Histogram = merged([row.duration for row in rows])
        if not duration.count:
            return
        tally.count[step] = duration.count
        tally.errors[step] = sum(row.duration.count for row in rows if row.status == "error")
        tally.total_s += duration.sum_s
        for (name, _), value in zip(QUANTILES, quantiles(duration, [share for _, share in QUANTILES]), strict=True):
            tally.quantiles[name][step] = value

    def _told(self, tally: _Tally, attributes: Mapping[str, str]) -> Iterable[Series]:
        some = self._covered > 0
        per_s = np.full(self._steps.count, math.nan)
        per_s[some] = tally.count[some] / self._covered[some]
        yield Series("glassbottom.request.rate", "{request}/s", per_s, attributes)
        share = np.divide(
            tally.errors, tally.count, out=np.full(self._steps.count, math.nan), where=some & (tally.count > 0)
        )
        yield Series("glassbottom.request.error_ratio", "1", share, attributes)
        for name, values in tally.quantiles.items():
            yield Series("glassbottom.request.duration", "s", values, {**attributes, "quantile": name})


def covered_s(ended: Iterable[Ended], steps: Steps) -> F64:
    """Seconds that intervals which end in each step cover, those of processes side by side once: (count,)."""
    every = list(ended)
    covered = np.zeros(steps.count)
    if not every:
        return covered
    from_ns = np.concatenate([one.from_ns for one in every])
    to_ns = np.concatenate([one.to_ns for one in every])
    order = np.argsort(from_ns, kind="stable")
    from_ns, to_ns = from_ns[order], to_ns[order]
    step_of = (to_ns - steps.from_ns) // steps.step_ns
    for step in np.unique(step_of[(step_of >= 0) & (step_of < steps.count)]).tolist():
        starts, ends = from_ns[step_of == step], to_ns[step_of == step]
        # In order of their starts, each adds what lies beyond the furthest end before it.
        before = np.concatenate([starts[:1], np.maximum.accumulate(ends)[:-1]])
        covered[step] = np.maximum(ends - np.maximum(starts, before), 0).sum() / 1e9
    return covered


# --- Event loops ---


def loops(reader: Reader, service: str, steps: Steps, has_time: Callable[[], bool]) -> tuple[int, list[Series]]:
    """How late event loops were, over all of a service: the 99th percentile and the most. Newest first; and how many
    steps were not reached."""
    late, most = np.full(steps.count, math.nan), np.full(steps.count, math.nan)
    tasks = np.full(steps.count, math.nan)
    end, unread = steps.count, 0
    while end > 0:
        if not has_time():
            unread = end
            break
        start = max(end - LOOKS_STEPS, 0)
        lags: dict[int, list[Histogram]] = {}
        counts: dict[int, dict[str, int]] = {}
        for instance_id, looks in reader.tasks(
            service, Span(steps.span(start).from_ns, steps.span(end - 1).to_ns)
        ).items():
            for look in looks:
                step = steps.of(look.at_ns)
                lags.setdefault(step, []).extend(loop.lag for loop in look.loops)
                counts.setdefault(step, {})[instance_id] = look.tasks
        for step, of_step in lags.items():
            lag = merged(of_step)
            tasks[step] = sum(counts[step].values())
            if lag.count:
                late[step], most[step] = quantiles(lag, [0.99])[0], lag.max_s
        end = start
    return unread, [
        Series("glassbottom.event_loop.lag", "s", late, {"quantile": "0.99"}),
        Series("glassbottom.event_loop.lag", "s", most, {"quantile": "1"}),
        Series("glassbottom.task.count", "{task}", tasks),
    ]


# --- Databases and caches ---


def of_history(source: str, readings: Sequence[Reading], steps: Steps) -> Iterable[Series]:
    """What one source said, as it was last in each step."""
    names = sorted({name for reading in readings for name in reading.values})
    for name in names:
        mine = [reading for reading in readings if name in reading.values]
        curve = Curve(
            np.array([reading.at_ns for reading in mine], dtype=np.int64),
            np.array([reading.values[name] for reading in mine]),
        )
        yield Series(name, UNITS.get(name, ""), last(curve, steps), {"glassbottom.source": source})
