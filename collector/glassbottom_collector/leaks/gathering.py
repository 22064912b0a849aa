"""Series read once and reduced to what is judged: blocks by site and by group, growth by call path, what is held at the
end.

Reads only through the Reader protocol, one series at a time, and keeps about twenty blocks of each.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ..model.heap import I64, HeapSeries
from ..model.process import Span
from ..storage import Reader
from .blocks import Blocks, pooled, reduce, widened
from .groups import GroupMap, StackGrowth
from .judging import Screen
from .operations import RouteGrowth
from .plan import Life, Plan, latest_lives
from .sites import Grouping, SiteMap

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Analysis:
    """One way to look at a service: the sum of its processes, or one life. Columns of `sites` and `groups` are those of
    the maps of Data. readings: snapshots of the process with most."""

    sites: Screen
    groups: Screen
    routes: RouteGrowth
    growth: StackGrowth
    readings: int


@dataclass
class Data:
    """All that is kept of the series. stacks: per site, live bytes of its call paths at the end."""

    sites: SiteMap = field(default_factory=SiteMap)
    groups: GroupMap = field(default_factory=GroupMap)
    analyses: list[Analysis] = field(default_factory=list)
    stacks: dict[int, dict[int, float]] = field(default_factory=dict)
    ends: dict[int, End] = field(default_factory=dict)
    seen: int = 0


@dataclass
class End:
    """What a site holds at the end of the window, over the processes that were alive then; and how it moved."""

    live: float = 0.0
    variance: float = 0.0
    objects: float = 0.0
    samples: float = 0.0
    growth: float = 0.0
    seconds: float = 0.0


class _Part:
    """What is reduced over the same edges, a process at a time."""

    def __init__(self, life: Life | None, edges_ns: I64) -> None:
        self._life = life
        self._edges_ns = edges_ns
        self._sites: list[Blocks] = []
        self._groups: list[Blocks] = []
        self._routes = RouteGrowth(edges_ns)
        self._growth: StackGrowth | None = None
        self._readings = 0

    def add(self, series: HeapSeries, data: Data) -> None:
        """One process, whose call paths have been learned."""
        stacks = series.stacks
        inside = (series.at_ns >= self._edges_ns[0]) & (series.at_ns <= self._edges_ns[-1])
        self._readings = max(self._readings, int(inside.sum()))
        self._sites.append(reduce(series, Grouping(data.sites.columns(stacks), len(data.sites)), self._edges_ns))
        self._groups.append(reduce(series, data.groups.grouping(stacks), self._edges_ns))
        self._routes.add(series, data.sites)
        single = reduce(series, Grouping(np.arange(len(stacks)), len(stacks)), self._edges_ns)
        if self._growth is None:
            self._growth = StackGrowth(single.times_s)
        self._growth.add(stacks, single)

    def analysis(self, data: Data) -> Analysis | None:
        """None when there was nothing."""
        if self._growth is None:
            return None
        sites = pooled([widened(each, len(data.sites)) for each in self._sites])
        groups = pooled([widened(each, len(data.groups)) for each in self._groups])
        screens = Screen.of(self._life, sites), Screen.of(self._life, groups)
        return Analysis(*screens, self._routes, self._growth, self._readings)


def gather(reader: Reader, service: str, within: Span, instance_id: str | None, plan: Plan, tell: Progress) -> Data:
    """Reads all series of the plan; the sum of processes is the first analysis, if there is one. Raises what the reader
    and `tell` raise."""
    data = Data()
    together = _Part(None, plan.pool_edges) if plan.pool_edges is not None else None
    alone: list[_Part] = []
    alive: set[int] = set()
    latest = latest_lives(plan)
    for done, series in enumerate(reader.heap_series(service, within, instance_id)):
        tell("Reading snapshots", done, len(plan.lives))
        life = (series.instance_id, series.epoch)
        if life not in plan.lives or not len(series.stacks):
            continue
        _learn(reader, data, series)
        grouping = Grouping(data.sites.columns(series.stacks), len(data.sites))
        alive.update(grouping.columns[series.live_bytes.max(axis=0) > 0].tolist())
        if life in plan.edges:
            part = _Part(life, plan.edges[life])
            part.add(series, data)
            alone.append(part)
        if together is not None and life in plan.pool:
            together.add(series, data)
        if life in latest:
            _note_end(data, series, grouping)
    data.seen = len(alive)
    parts = [*([together] if together is not None else []), *alone]
    data.analyses = [each for part in parts if (each := part.analysis(data)) is not None]
    return data


def _learn(reader: Reader, data: Data, series: HeapSeries) -> None:
    unknown = data.sites.unknown(series.stacks)
    if unknown:
        stacks = reader.stacks(unknown)
        frames = reader.frames({frame for stack in stacks.values() for frame in stack.frames})
        data.sites.learn(unknown, stacks, frames)
        data.groups.learn(unknown, stacks, frames)


def _note_end(data: Data, series: HeapSeries, grouping: Grouping) -> None:
    columns = {
        "live": grouping.sums(series.live_bytes[-1]),
        "variance": grouping.sums(np.sqrt(series.live_bytes_variance[-1])) ** 2,
        "objects": grouping.sums(series.live_objects[-1]),
        "samples": grouping.sums(series.samples[-1].astype(float)),
        "growth": grouping.sums(series.live_bytes[-1] - series.live_bytes[0]),
    }
    columns["variance"] = np.minimum(columns["variance"], series.headers[-1].live_bytes_variance)
    seconds = (series.headers[-1].at_ns - series.headers[0].at_ns) / 1e9
    for site in np.flatnonzero((columns["live"] > 0) | (columns["growth"] != 0)).tolist():
        end = data.ends.setdefault(site, End())
        for name, values in columns.items():
            setattr(end, name, getattr(end, name) + float(values[site]))
        end.seconds = max(end.seconds, seconds)
    for stack, site, live in zip(
        series.stacks.tolist(), grouping.columns.tolist(), series.live_bytes[-1].tolist(), strict=True
    ):
        if live > 0:
            held = data.stacks.setdefault(site, {})
            held[stack] = held.get(stack, 0.0) + live
