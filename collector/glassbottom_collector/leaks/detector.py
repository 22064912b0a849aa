"""Which allocation sites of a service leak: reads snapshots, asks verdict.py, and writes the report.

Each process and epoch is analysed by itself, and those that lived through the whole window also as one, since eight
workers that leak an eighth each are one leak. Different epochs are never joined: a restart empties the heap, and the
step up after it is not growth. The first quarter of a process's life is left out as warm-up.

Reads only through the Reader protocol, one series at a time, and keeps about twenty blocks of each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..model.heap import F64, I64, HeapSeries, SnapshotHeader
from ..model.leak import Evidence, LeakFinding, LeakReport, Rate, Verdict
from ..model.process import ProcessSeen, Span
from ..storage import Reader
from . import operations, process_memory, trend, verdict
from .blocks import BLOCKS_MIN, Blocks, edges_of, pooled, reduce, widened
from .operations import RouteGrowth
from .rules import growth_rule_of, steepest
from .sites import Grouping, SiteMap
from .verdict import Judgement, Screened
from .wording import time_text

WARM_UP_SHARE = 0.25
# Processes whose data covers this much of the longest are analysed as one.
POOL_SHARE = 0.8
NOTES_MAX = 8
# Worst first.
_ORDER = {Verdict.LEAK: 0, Verdict.GROWING: 1, Verdict.UNCLEAR: 2, Verdict.STABLE: 3}

Progress = Callable[[str, int, int], None]
_Life = tuple[str, int]  # instance and epoch


def find_leaks(
    reader: Reader,
    service: str,
    within: Span,
    *,
    instance_id: str | None = None,
    include_stable: bool = False,
    limit: int = 20,
    progress: Progress | None = None,
) -> LeakReport:
    """Judges every allocation site of a service over a window.

    progress(stage, done, total) is called between steps, from the calling thread; what it raises ends the analysis.
    Without data the report is empty and its notes say why. Raises what the reader raises.
    """
    tell = progress or (lambda _stage, _done, _total: None)
    tell("Reading which snapshots there are", 0, 0)
    plan = _plan(reader, service, within, instance_id)
    if not plan.headers:
        missing = LeakReport((), 0, 0, None, 0.0, (), (f"No heap snapshot of {service} lies in the window.",))
        return process_memory.completed(missing, reader, service, within, instance_id, lambda _finding: None, limit)
    evidence = _reduce_all(reader, service, within, instance_id, plan, tell)
    tell("Judging sites", 0, len(evidence.sites))
    found = _judge_all(evidence, include_stable, limit)
    if not evidence.analyses:
        found = _without_tests(evidence, plan, limit)
    tell("Writing the report", len(evidence.sites), len(evidence.sites))
    prices = _Prices(reader, service, evidence)
    pairs = [(_finding(each, evidence, prices.of(each)), each.analysis) for each in found[:limit]]
    spans = {id(finding): _span_of(evidence, analysis) for finding, analysis in pairs}
    times = [header.at_ns for header in plan.headers]
    report = LeakReport(
        findings=tuple(finding for finding, _ in pairs),
        sites_examined=evidence.seen,
        snapshots=len(plan.headers),
        covered=Span(min(times), max(times) + 1),
        total_bytes_rate=_total_rate(plan),
        rule_hits=tuple(steepest(growth_rule_of(plan.headers))),
        notes=_notes(plan, evidence),
    )
    return process_memory.completed(
        report, reader, service, within, instance_id, lambda finding: spans.get(id(finding)), limit
    )


def _span_of(data: _Data, analysis: int) -> Span | None:
    """When the evidence of an analysis was taken."""
    if analysis < 0:
        return None
    edges_ns = data.analyses[analysis].blocks.edges_ns
    return Span(int(edges_ns[0]), int(edges_ns[-1]))


# --- What to look at ---


@dataclass(frozen=True)
class _Plan:
    """Headers by instance and time; for each life the snapshots left after its warm-up; edges for each life that has
    enough of them, and common edges for those that lived through the window together."""

    headers: tuple[SnapshotHeader, ...]
    lives: Mapping[_Life, tuple[SnapshotHeader, ...]]
    used: Mapping[_Life, I64]
    edges: Mapping[_Life, I64]
    pool: frozenset[_Life]
    pool_edges: I64 | None


def _plan(reader: Reader, service: str, within: Span, instance_id: str | None) -> _Plan:
    seen = {each.process.instance_id: each for each in reader.processes(service, within)}
    # A third of the window earlier is enough to know whether its beginning lies in the first quarter of a life.
    before = Span(max(within.from_ns - (within.to_ns - within.from_ns) // 2, 0), within.to_ns)
    lives: dict[_Life, list[SnapshotHeader]] = {}
    born: dict[_Life, int] = {}
    for header in reader.headers(service, before):
        if instance_id is not None and header.instance_id != instance_id:
            continue
        life = (header.instance_id, header.epoch)
        born.setdefault(life, max(header.at_ns, _started_ns(seen.get(header.instance_id))))
        if within.from_ns <= header.at_ns < within.to_ns:
            lives.setdefault(life, []).append(header)
    used = {life: after_warm_up(headers, born[life]) for life, headers in lives.items()}
    edges = {life: each for life, at_ns in used.items() if (each := edges_of(at_ns)) is not None}
    pool, pool_edges = _pool(used, edges)
    return _Plan(
        headers=tuple(header for headers in lives.values() for header in headers),
        lives={life: tuple(headers) for life, headers in lives.items()},
        used=used,
        edges=edges,
        pool=pool,
        pool_edges=pool_edges,
    )


def _started_ns(seen: ProcessSeen | None) -> int:
    return 0 if seen is None else seen.process.started_at_ns


def after_warm_up(headers: Sequence[SnapshotHeader], born_ns: int) -> I64:
    """Times of the snapshots behind the first quarter of a life that began at born_ns, ascending and distinct."""
    at_ns = np.unique(np.array([header.at_ns for header in headers], dtype=np.int64))
    born_ns = min(born_ns, int(at_ns[0]))
    return at_ns[at_ns >= born_ns + WARM_UP_SHARE * (int(at_ns[-1]) - born_ns)]


def _pool(used: Mapping[_Life, I64], edges: Mapping[_Life, I64]) -> tuple[frozenset[_Life], I64 | None]:
    if len(edges) < 2:
        return frozenset(), None
    longest = max(int(used[life][-1] - used[life][0]) for life in edges)
    newest = max(int(used[life][-1]) for life in edges)
    members = {
        life
        for life in edges
        if used[life][-1] - used[life][0] >= POOL_SHARE * longest
        and newest - used[life][-1] <= (1 - POOL_SHARE) * longest
    }
    if len(members) < 2:
        return frozenset(), None
    start, end = max(int(used[life][0]) for life in members), min(int(used[life][-1]) for life in members)
    fewest = min(int(((used[life] >= start) & (used[life] <= end)).sum()) for life in members)
    common = edges_of(np.linspace(start, end, max(fewest, 1)).astype(np.int64)) if end > start else None
    return (frozenset(members), common) if common is not None else (frozenset(), None)


# --- Reading ---


@dataclass(frozen=True)
class _Analysis:
    """One way to look at the sites: the pool, or one life."""

    life: _Life | None
    blocks: Blocks
    screened: Screened
    routes: RouteGrowth


@dataclass
class _Data:
    """All that is kept of the series."""

    sites: SiteMap
    analyses: list[_Analysis]
    stacks: dict[int, dict[int, float]]  # per site: live bytes of its call paths at the end
    ends: dict[int, _End]
    seen: int


@dataclass
class _End:
    """What a site holds at the end of the window, over the processes that were alive then; and how it moved."""

    live: float = 0.0
    variance: float = 0.0
    objects: float = 0.0
    samples: float = 0.0
    growth: float = 0.0
    seconds: float = 0.0


def _reduce_all(
    reader: Reader, service: str, within: Span, instance_id: str | None, plan: _Plan, tell: Progress
) -> _Data:
    sites = SiteMap()
    alone: list[tuple[_Life, Blocks, RouteGrowth]] = []
    together: list[Blocks] = []
    together_routes = RouteGrowth(np.zeros(0, dtype=np.int64) if plan.pool_edges is None else plan.pool_edges)
    data = _Data(sites, [], {}, {}, 0)
    alive: set[int] = set()
    latest = _latest_lives(plan)
    for done, series in enumerate(reader.heap_series(service, within, instance_id)):
        tell("Reading snapshots", done, len(plan.lives))
        life = (series.instance_id, series.epoch)
        if life not in plan.lives or not len(series.stacks):
            continue
        _learn(reader, sites, series)
        grouping = Grouping(sites.columns(series.stacks), len(sites))
        alive.update(grouping.columns[series.live_bytes.max(axis=0) > 0].tolist())
        if life in plan.edges:
            routes = RouteGrowth(plan.edges[life])
            routes.add(series, sites)
            alone.append((life, reduce(series, grouping, plan.edges[life]), routes))
        if life in plan.pool and plan.pool_edges is not None:
            together.append(reduce(series, grouping, plan.pool_edges))
            together_routes.add(series, sites)
        if life in latest:
            _note_end(data, series, grouping)
    count = len(sites)
    data.seen = len(alive)
    if together:
        blocks = pooled([widened(each, count) for each in together])
        data.analyses.append(_Analysis(None, blocks, verdict.screen(blocks), together_routes))
    for life, each, routes in alone:
        blocks = widened(each, count)
        data.analyses.append(_Analysis(life, blocks, verdict.screen(blocks), routes))
    return data


def _latest_lives(plan: _Plan) -> set[_Life]:
    """The newest epoch of each instance that still sent snapshots near the end of the window."""
    newest: dict[str, _Life] = {}
    for life, headers in plan.lives.items():
        other = newest.get(life[0])
        if other is None or headers[-1].at_ns > plan.lives[other][-1].at_ns:
            newest[life[0]] = life
    end = max(plan.lives[life][-1].at_ns for life in newest.values())
    start = min(header.at_ns for header in plan.headers)
    return {life for life in newest.values() if end - plan.lives[life][-1].at_ns <= max((end - start) / 10, 60e9)}


def _learn(reader: Reader, sites: SiteMap, series: HeapSeries) -> None:
    unknown = sites.unknown(series.stacks)
    if unknown:
        stacks = reader.stacks(unknown)
        frames = reader.frames({frame for stack in stacks.values() for frame in stack.frames})
        sites.learn(unknown, stacks, frames)


def _note_end(data: _Data, series: HeapSeries, grouping: Grouping) -> None:
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
        end = data.ends.setdefault(site, _End())
        for name, values in columns.items():
            setattr(end, name, getattr(end, name) + float(values[site]))
        end.seconds = max(end.seconds, seconds)
    for stack, site, live in zip(
        series.stacks.tolist(), grouping.columns.tolist(), series.live_bytes[-1].tolist(), strict=True
    ):
        if live > 0:
            held = data.stacks.setdefault(site, {})
            held[stack] = held.get(stack, 0.0) + live


# --- Judging ---


@dataclass(frozen=True)
class _Judged:
    site: int
    judgement: Judgement
    instance_ids: tuple[str, ...]
    analysis: int = -1  # in which it was judged, before the others were added; -1: in none


def _judge_all(data: _Data, include_stable: bool, limit: int) -> list[_Judged]:
    if not data.analyses:
        return []
    count = len(data.sites)
    raw_retained, best = _least([each.screened.p_retained for each in data.analyses])
    raw_live, _ = _least([each.screened.p_live for each in data.analyses])
    present = np.zeros(count, dtype=bool)
    for each in data.analyses:
        present |= (each.blocks.floors.max(axis=0) > 0) | (each.blocks.live_last > 0)
    p_retained, p_live = np.ones(count), np.ones(count)
    p_retained[present], p_live[present] = (trend.by_adjusted(raw[present]) for raw in (raw_retained, raw_live))
    grew = np.zeros(count, dtype=bool)
    for each in data.analyses:
        grew |= (each.screened.retained > 0) | (each.screened.growth > 0)
    suspicious = (raw_retained < verdict.SUSPICION_P) | (p_retained <= verdict.FALSE_DISCOVERY)
    wanted = present & grew & (suspicious | (p_live <= verdict.FALSE_DISCOVERY))
    if include_stable:
        wanted |= _largest(data, present, limit)
    judged: list[_Judged] = []
    for number, analysis in enumerate(data.analyses):
        rows = np.flatnonzero(wanted & (best == number))
        verdicts = verdict.judge(
            analysis.blocks, rows, p_retained[rows], p_live[rows], raw_retained[rows], int(present.sum())
        )
        judged.extend(_over_processes(data, number, int(row), each) for row, each in zip(rows, verdicts, strict=True))
    kept = [each for each in judged if include_stable or each.judgement.verdict is not Verdict.STABLE]
    return sorted(kept, key=lambda each: (_ORDER[each.judgement.verdict], -each.judgement.bytes_rate.per_second))


def _least(columns: Sequence[F64]) -> tuple[F64, NDArray[np.intp]]:
    """Least p of each site over analyses, corrected for having looked so often (Bonferroni), and where it was."""
    stacked = np.stack(columns)
    best = stacked.argmin(axis=0)
    return np.minimum(stacked.min(axis=0) * len(columns), 1.0), best


def _largest(data: _Data, present: NDArray[np.bool_], limit: int) -> NDArray[np.bool_]:
    """The sites that hold most, as many as could be listed."""
    live = np.zeros(len(present))
    for site, end in data.ends.items():
        live[site] = end.live
    chosen = np.zeros(len(present), dtype=bool)
    chosen[np.argsort(-live, kind="stable")[:limit]] = True
    return chosen & present


def _over_processes(data: _Data, number: int, row: int, judgement: Judgement) -> _Judged:
    """Adds up the processes in which the site grows, unless the judgement is on their sum already."""
    analysis = data.analyses[number]
    growing = [
        each
        for each in data.analyses
        if each.life is not None
        and each.screened.p_retained[row] < verdict.CANDIDATE_P
        and each.screened.retained[row] > 0
    ]
    names = tuple(dict.fromkeys(each.life[0] for each in growing if each.life is not None))
    if analysis.life is None:
        return _Judged(row, judgement, names or analysis.blocks.instance_ids, number)
    others = {each.life[0]: each for each in growing if each.life is not None and each.life[0] != analysis.life[0]}
    if others:
        rates = [
            verdict.judge(each.blocks, np.array([row]), np.ones(1), np.ones(1), each.screened.p_retained[[row]], 1)[0]
            for each in others.values()
        ]
        judgement = replace(
            judgement,
            bytes_rate=_sum([judgement.bytes_rate, *(each.bytes_rate for each in rates)]),
            objects_rate=_sum([judgement.objects_rate, *(each.objects_rate for each in rates)]),
        )
    return _Judged(row, judgement, tuple(dict.fromkeys((analysis.life[0], *names))), number)


def _sum(rates: Sequence[Rate]) -> Rate:
    """Sum of independent rates."""
    total = sum(rate.per_second for rate in rates)
    below = sum((rate.per_second - rate.low) ** 2 for rate in rates) ** 0.5
    above = sum((rate.high - rate.per_second) ** 2 for rate in rates) ** 0.5
    return Rate(total, total - below, total + above)


def _without_tests(data: _Data, plan: _Plan, limit: int) -> list[_Judged]:
    """What grew most, when no process has enough snapshots to say more."""
    grown = sorted((item for item in data.ends.items() if item[1].growth > 0), key=lambda item: -item[1].growth)
    missing = _missing(plan)
    judged = []
    for site, end in grown[:limit]:
        seconds = max(end.seconds, 1e-9)
        error = 1.96 * end.variance**0.5 / seconds
        rate = end.growth / seconds
        per_byte = end.objects / end.live if end.live else 0.0
        judgement = Judgement(
            Verdict.UNCLEAR,
            Rate(rate, rate - error, rate + error),
            Rate(rate * per_byte, (rate - error) * per_byte, (rate + error) * per_byte),
            1.0,
            (Evidence("data", False, missing),),
            "Enough snapshots: see the evidence.",
            Rate(rate, rate - error, rate + error),
        )
        judged.append(_Judged(site, judgement, tuple(dict.fromkeys(life[0] for life in plan.lives))))
    return judged


# --- The report ---


class _Prices:
    """What stays per operation; operations of the processes of an analysis are counted once, and only if it accuses."""

    def __init__(self, reader: Reader, service: str, data: _Data) -> None:
        self._reader = reader
        self._service = service
        self._data = data
        self._counted: dict[int, operations.Counted] = {}

    def of(self, judged: _Judged) -> operations.Priced:
        """Nothing for what does not grow."""
        if judged.analysis < 0 or judged.judgement.verdict is Verdict.STABLE:
            return operations.Priced((), None)
        analysis = self._data.analyses[judged.analysis]
        blocks, site = analysis.blocks, judged.site
        counted = self._counted.get(judged.analysis)
        if counted is None:
            counted = operations.count(self._reader, self._service, blocks.instance_ids, blocks.edges_ns)
            self._counted[judged.analysis] = counted
        live = float(blocks.live_last[site])
        return operations.price(
            blocks.times_s,
            blocks.retained[:, site],
            judged.judgement.own_rate,
            float(blocks.objects_last[site]) / live if live > 0 else 0.0,
            float(blocks.weight_last[site]),
            analysis.routes.of(site),
            counted,
        )


def _finding(judged: _Judged, data: _Data, priced: operations.Priced) -> LeakFinding:
    site = data.sites.sites[judged.site]
    end = data.ends.get(judged.site, _End())
    held = data.stacks.get(judged.site, {})
    judgement = judged.judgement
    return LeakFinding(
        verdict=judgement.verdict,
        frame=site.frame,
        stacks=tuple(sorted(held, key=lambda stack: -held[stack])),
        bytes_rate=judgement.bytes_rate,
        objects_rate=judgement.objects_rate,
        live_bytes=end.live,
        live_bytes_stderr=end.variance**0.5,
        live_objects=end.objects,
        samples=round(end.samples),
        p_value=float(judgement.p),
        evidence=(*judgement.evidence, *([priced.evidence] if priced.evidence is not None else [])),
        would_change=judgement.would_change,
        instance_ids=judged.instance_ids,
        application_frame=site.application_frame,
        per_operation=priced.operations,
    )


def _total_rate(plan: _Plan) -> float:
    """Sum of the slopes of the processes alive at the end, over what is left after warm-up."""
    total = 0.0
    for life in _latest_lives(plan):
        used = set(plan.used[life].tolist())
        headers = [header for header in plan.lives[life] if header.at_ns in used]
        if len(headers) < 3:
            continue
        picked = np.unique(np.linspace(0, len(headers) - 1, min(len(headers), 60)).round().astype(int))
        times = np.array([headers[index].at_ns / 1e9 for index in picked])
        live = np.array([[headers[index].live_bytes] for index in picked])
        total += float(trend.theil_sen(times - times[0], live)[0])
    return total


def _missing(plan: _Plan) -> str:
    """What is missing for a verdict, for the life that has most."""
    life = max(plan.used, key=lambda each: len(plan.used[each]))
    at_ns = [header.at_ns for header in plan.lives[life]]
    used = len(plan.used[life])
    interval = (at_ns[-1] - at_ns[0]) / 1e9 / (len(at_ns) - 1) if len(at_ns) > 1 else 0.0
    after = f"{used} snapshot{'' if used == 1 else 's'} after warm-up, {BLOCKS_MIN + 1} are needed"
    if not interval:
        return f"Only {after}."
    more = (BLOCKS_MIN + 1 - used) / (1 - WARM_UP_SHARE) * interval
    return f"Only {after}: about {time_text(max(more, interval))} more at one every {time_text(interval)}."


def _notes(plan: _Plan, data: _Data) -> tuple[str, ...]:
    notes: list[str] = []
    if not data.analyses:
        notes.append(_missing(plan))
    short = [life for life in plan.lives if life not in plan.edges]
    if data.analyses and short:
        notes.append(
            f"{len(short)} of {len(plan.lives)} process lives had too few snapshots after warm-up and are left out."
        )
    epochs: dict[str, int] = {}
    for instance, _epoch in plan.lives:
        epochs[instance] = epochs.get(instance, 0) + 1
    notes.extend(
        f"The sampler of {instance[:8]} started afresh {count - 1} time{'s' if count > 2 else ''} in the window; each "
        "stretch is judged by itself."
        for instance, count in epochs.items()
        if count > 1
    )
    left_out = sum(len(headers) for headers in plan.lives.values()) - sum(len(used) for used in plan.used.values())
    if data.analyses and left_out:
        notes.append(
            f"{left_out} of {len(plan.headers)} snapshots fall into the first quarter of a life: left out as warm-up."
        )
    return tuple(notes[:NOTES_MAX])
