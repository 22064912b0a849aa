"""What the collector knows of a service, as files: its processes, leaks, heap, slow operations, tasks and findings.

Each subject is a collector of its own, so that one that fails or takes too long costs only itself. They run one after
the other, the cheap ones first: side by side they would only wait for the same store. The last one writes
state/summary.json from what the others found, which is what a person opens first.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..findings import finder
from ..leaks.detector import find_leaks
from ..model.code import Frame, Stack
from ..model.heap import HeapState
from ..model.leak import LeakFinding
from ..model.live import InstanceLive
from ..model.places import application_frame
from ..model.process import ProcessSeen, Span
from ..model.timing import Observation
from ..storage import Reader
from ..timing import blocks
from ..timing.histograms import quantiles
from ..timing.loops import over_time
from ..timing.operations import Thresholds, covered_by, summaries
from ..timing.places import Places, look_up, of_observations
from .parts import CollectingError, Planned, Sink
from .plain import plain

NODE = "the store of the collector"
LANE = "store"
LEAKS_MAX, SITES_MAX, OPERATIONS_MAX, SPANS_MAX, GROUPS_MAX, BLOCKS_MAX, FINDINGS_MAX = 50, 100, 100, 100, 200, 50, 200
PROCESSES_MAX = 200
PATH_MAX = 64
TYPES_MAX = 5
NOW_S = 600
"""How long before the end a look at tasks or a heap still says how it was then."""
SUMMARY_SENTENCES_MAX = 20
LOST = ("dropped", "lost", "overflowed", "refused", "failed", "errors")
"""Words in names of an agent's counters that mean something is missing from what it told."""

Live = Callable[[], Sequence[InstanceLive]]
"""What is connected now; from any thread."""
HasTime = Callable[[], None]
"""Raises CollectingError when the time is over."""


@dataclass
class Shared:
    """What the subjects leave for the summary, by file."""

    headlines: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What all subjects are asked about."""

    reader: Reader
    live: Live
    service: str
    within: Span

    @property
    def lately(self) -> Span:
        """The end of the window."""
        return Span(max(self.within.to_ns - NOW_S * 10**9, 0), self.within.to_ns)


Found = tuple[dict[str, Any], Any, list[str]]
"""The document, the headline for the summary, and notes."""
Look = Callable[[Asked, HasTime], Found]


@dataclass
class StoreCollector:
    """Implements parts.Collector for one subject."""

    name: str
    path: str
    what: str
    look: Look
    asked: Asked
    shared: Shared
    budget_s: float
    monotonic_s: Callable[[], float] = time.monotonic
    lane: str = LANE

    def plan(self) -> Sequence[Planned]:
        return [Planned(f"{self.what} of {self.asked.service}", NODE, "collector", "cheap", self.budget_s)]

    def collect(self, sink: Sink, deadline_s: float) -> None:
        def has_time() -> None:
            if self.monotonic_s() >= deadline_s:
                raise CollectingError(f"There was not enough time for the {self.what}; capture a shorter window.")

        document, headline, notes = self.look(self.asked, has_time)
        for note in notes:
            sink.note(note)
        asked = self.asked
        head = {"service": asked.service, "from_ns": asked.within.from_ns, "to_ns": asked.within.to_ns}
        sink.json(self.path, {**head, **document}, node=NODE, role="collector")
        self.shared.headlines[self.name] = headline


@dataclass
class SummaryCollector:
    """Implements parts.Collector: the last of its lane, which says what the others found."""

    asked: Asked
    shared: Shared
    budget_s: float = 1.0
    name: str = "store.summary"
    lane: str = LANE

    def plan(self) -> Sequence[Planned]:
        return [Planned("what the other subjects of the store found, in short", NODE, "collector")]

    def collect(self, sink: Sink, deadline_s: float) -> None:  # noqa: ARG002 - nothing here takes time
        asked = self.asked
        document = {
            "schema": "glassbottom.incident.summary/1",
            "service": asked.service,
            "from_ns": asked.within.from_ns,
            "to_ns": asked.within.to_ns,
            **{name.partition(".")[2]: self.shared.headlines.get(name) for name, *_ in SUBJECTS},
        }
        sink.json("state/summary.json", document, node=NODE, role="collector")


def collectors(
    reader: Reader, live: Live, service: str, within: Span, monotonic_s: Callable[[], float] = time.monotonic
) -> list[StoreCollector | SummaryCollector]:
    """One for each subject, and the summary; in the order in which they have to run."""
    asked, shared = Asked(reader, live, service, within), Shared()
    found: list[StoreCollector | SummaryCollector] = [
        StoreCollector(name, path, what, look, asked, shared, budget_s, monotonic_s)
        for name, path, what, look, budget_s in SUBJECTS
    ]
    return [*found, SummaryCollector(asked, shared)]


# --- Processes ---


def _processes(asked: Asked, has_time: HasTime) -> Found:
    live = {one.process.instance_id: one for one in asked.live() if one.process.service == asked.service}
    has_time()
    seen = {one.process.instance_id: one for one in asked.reader.processes(asked.service, asked.within)}
    if not live and not seen:
        raise CollectingError(
            f"No process of {asked.service} told anything in this window; see `glassbottom services` for the names."
        )
    began = {key: (live.get(key) or seen[key]).process.started_at_ns for key in {*live, *seen}}
    chosen = sorted(began, key=lambda key: (key in live, began[key]))[-PROCESSES_MAX:]
    chosen.sort(key=lambda key: (began[key], key))
    rows = [_process(live.get(key), seen.get(key)) for key in chosen]
    notes = []
    if len(began) > len(chosen):
        notes.append(f"Of {len(began)} processes the {len(chosen)} that are connected or began last are listed.")
    within = asked.within
    headline = {
        "connected": sum(row["connected"] for row in rows),
        "seen": len(began),
        "began": sum(within.from_ns <= at_ns < within.to_ns for at_ns in began.values()),
        "agent_versions": sorted({row["agent_version"] for row in rows if row["agent_version"]}),
        "service_versions": sorted({version for row in rows if (version := row["service_version"])}),
        "lost": {row["instance_id"]: row["lost"] for row in rows if row["lost"]},
    }
    return {"schema": "glassbottom.incident.processes/1", "processes": rows}, headline, notes


def _process(live: InstanceLive | None, seen: ProcessSeen | None) -> dict[str, Any]:
    process = live.process if live is not None else seen.process if seen is not None else None
    assert process is not None
    statistics = dict(sorted(live.statistics.items())) if live is not None else {}
    return {
        "instance_id": process.instance_id,
        "pid": process.pid,
        "started_at_ns": process.started_at_ns,
        "attributes": dict(sorted(process.attributes.items())),
        "service_version": process.attributes.get("service.version"),
        "connected": live is not None and live.connected,
        "first_seen_ns": seen.first_seen_ns if seen is not None else None,
        "last_seen_ns": max(each.last_seen_ns for each in (live, seen) if each is not None),
        "agent_version": live.agent_version if live is not None else seen.agent_version if seen is not None else "",
        "sampler_state": live.sampler_state if live is not None else "unknown",
        "sampler_reason": live.sampler_reason if live is not None else "",
        "clock_skew_s": plain(live.clock_skew_s) if live is not None else None,
        "statistics": plain(statistics),
        "lost": {
            name: plain(value) for name, value in statistics.items() if value > 0 and any(word in name for word in LOST)
        },
    }


# --- Memory ---


def _leaks(asked: Asked, has_time: HasTime) -> Found:
    report = find_leaks(
        asked.reader,
        asked.service,
        asked.within,
        limit=LEAKS_MAX,
        progress=lambda _stage, _done, _total: has_time(),
    )
    places = look_up(asked.reader, (stack for finding in report.findings for stack in finding.stacks[:1]))
    document = plain(report, without={"findings"})
    document["findings"] = [_leak(finding, places) for finding in report.findings]
    headline = {
        "leaks": sum(finding.verdict.value == "leak" for finding in report.findings),
        "growing": sum(finding.verdict.value == "growing" for finding in report.findings),
        "total_bytes_per_second": plain(report.total_bytes_rate),
        "forecast": None if report.forecast is None else report.forecast.sentence,
        "places": [
            {
                "verdict": finding.verdict.value,
                "place": plain(finding.application_frame or finding.frame),
                "bytes_per_second": plain(finding.bytes_rate.per_second),
            }
            for finding in report.findings[:SUMMARY_SENTENCES_MAX]
        ],
    }
    return {"schema": "glassbottom.incident.leaks/1", **document}, headline, []


def _leak(finding: LeakFinding, places: Places) -> dict[str, Any]:
    path = places.path(finding.stacks[0]) if finding.stacks else ()
    return {**plain(finding, without={"stacks"}), "path": _path(path or (finding.frame,))}


def _heap(asked: Asked, has_time: HasTime) -> Found:
    states = asked.reader.heap_at(asked.service, asked.within.to_ns)
    has_time()
    notes = (
        [] if states else [f"No heap of {asked.service} was read in the ten minutes before; see state/processes.json."]
    )
    stacks = asked.reader.stacks({stack for state in states for stack in state.sites.stack.tolist()})
    sites = largest_sites(states, stacks)
    shown = sites[:SITES_MAX]
    has_time()
    places = look_up(asked.reader, (stack for site in shown for stack in site.stacks))
    names = asked.reader.types({kind for site in shown for kind in site.types})
    rows = [_site(site, places, names) for site in shown]
    live = sum(state.header.live_bytes for state in states)
    totals = {
        "live_bytes": plain(live),
        "live_bytes_stderr": plain(sum(state.header.live_bytes_variance for state in states) ** 0.5),
        "live_objects": plain(sum(float(state.sites.live_objects.sum()) for state in states)),
        "samples": sum(int(state.sites.samples.sum()) for state in states),
        "processes": len({state.header.instance_id for state in states}),
        "oldest_snapshot_ns": min((state.header.at_ns for state in states), default=None),
        "sites": len(sites),
    }
    headline = {"totals": totals, "places": [{k: row[k] for k in ("place", "live_bytes")} for row in rows[:10]]}
    return {"schema": "glassbottom.incident.heap/1", "totals": totals, "sites": rows}, headline, notes


@dataclass
class Site:
    """A line that allocates, over processes. stacks: its call paths, the largest first. types: live bytes by id."""

    frame: int
    live_bytes: float = 0.0
    live_objects: float = 0.0
    alloc_bytes: float = 0.0
    samples: int = 0
    stacks: list[int] = field(default_factory=list)
    types: dict[int, float] = field(default_factory=dict)


def largest_sites(states: Sequence[HeapState], stacks: Mapping[int, Stack]) -> list[Site]:
    """All lines that hold memory, the largest first. Paths that are not known stand under frame 0."""
    found: dict[int, Site] = {}
    held: dict[int, float] = {}
    frame_of = {identity: stack.frames[0] for identity, stack in stacks.items() if stack.frames}
    for state in states:
        columns = state.sites
        for stack, live, objects, alloc, samples in zip(
            columns.stack.tolist(),
            columns.live_bytes.tolist(),
            columns.live_objects.tolist(),
            columns.alloc_bytes.tolist(),
            columns.samples.tolist(),
            strict=True,
        ):
            frame = frame_of.get(stack, 0)
            site = found.setdefault(frame, Site(frame))
            site.live_bytes += live
            site.live_objects += objects
            site.alloc_bytes += alloc
            site.samples += samples
            if stack not in held:
                site.stacks.append(stack)
            held[stack] = held.get(stack, 0.0) + live
        for stack, kind, live in zip(
            state.types.stack.tolist(), state.types.type.tolist(), state.types.live_bytes.tolist(), strict=True
        ):
            types = found.setdefault(frame_of.get(stack, 0), Site(frame_of.get(stack, 0))).types
            types[kind] = types.get(kind, 0.0) + live
    for site in found.values():
        site.stacks.sort(key=lambda stack: -held[stack])
    return sorted((s for s in found.values() if s.live_bytes > 0), key=lambda site: (-site.live_bytes, site.frame))


def _site(site: Site, places: Places, names: Mapping[int, str]) -> dict[str, Any]:
    path = places.path(site.stacks[0]) if site.stacks else ()
    types = sorted(site.types.items(), key=lambda item: -item[1])[:TYPES_MAX]
    routes = sorted({label for each in site.stacks if (known := places.stacks.get(each)) and (label := known.label)})
    return {
        "place": plain(application_frame(path) or (path[0] if path else None)),
        "frame": plain(places.frame(site.frame)),
        "live_bytes": plain(site.live_bytes),
        "live_objects": plain(site.live_objects),
        "alloc_bytes": plain(site.alloc_bytes),
        "samples": site.samples,
        "types": [{"type": names.get(kind), "live_bytes": plain(live)} for kind, live in types],
        "routes": routes,
        "path": _path(path),
    }


# --- Time ---


def _slow(asked: Asked, has_time: HasTime) -> Found:
    totals = asked.reader.operation_totals(asked.service, asked.within)
    has_time()
    found = summaries(totals.values(), Thresholds())
    shown = found[:OPERATIONS_MAX]
    places = look_up(asked.reader, frames=(each.key.frame for each in shown))
    seen = asked.reader.observations(asked.service, asked.within, ["span.slow"])
    spans = sorted(seen, key=lambda each: (-each.value, -each.at_ns))[:SPANS_MAX]
    operations = [
        {
            **plain(each, without={"key", "duration"}),
            "kind": each.key.kind.name.lower(),
            "name": each.key.name,
            "span_kind": each.key.span_kind,
            "frame": plain(places.frame(each.key.frame)),
            "count": each.count,
            "total_s": plain(each.duration.sum_s),
            "max_s": plain(each.duration.max_s),
        }
        for each in shown
    ]
    document = {
        "schema": "glassbottom.incident.slow/1",
        "covered": plain(covered_by(totals.values())),
        "thresholds": plain(Thresholds()),
        "operations_total": len(found),
        "operations": operations,
        "slow_spans_total": len(seen),
        "slow_spans": [
            {
                "at_ns": each.at_ns,
                "name": each.name,
                "instance_id": each.instance_id,
                "duration_s": plain(each.value),
                "attributes": dict(sorted(each.attributes.items())),
            }
            for each in spans
        ],
    }
    flagged = [each for each in operations if each["flagged"]][:SUMMARY_SENTENCES_MAX]
    headline = {
        "operations": len(found),
        "slow_spans": len(seen),
        "flagged": [{key: each[key] for key in ("kind", "name", "count", "p95_s")} for each in flagged],
    }
    return document, headline, []


def _open_spans(asked: Asked, has_time: HasTime) -> Found:
    seen = asked.reader.observations(asked.service, asked.lately, ["span.never_ended"])
    has_time()
    # Told again at every reading as long as they are open: only the last one of each is how it was.
    latest: dict[tuple[str, str], Observation] = {(each.instance_id, each.name): each for each in seen}
    places = of_observations(asked.reader, latest.values())
    rows = [
        {
            "name": each.name,
            "instance_id": each.instance_id,
            "at_ns": each.at_ns,
            "open": each.count,
            "oldest_s": plain(each.value),
            "frame": plain(places.frame(each.frame)),
            "attributes": dict(sorted(each.attributes.items())),
        }
        for each in sorted(latest.values(), key=lambda each: (-each.value, each.instance_id, each.name))[:SPANS_MAX]
    ]
    headline = {"names": len(latest), "open": sum(each.count for each in latest.values())}
    return {"schema": "glassbottom.incident.open_spans/1", "spans": rows}, headline, []


def _tasks(asked: Asked, has_time: HasTime) -> Found:
    looks = asked.reader.tasks(asked.service, asked.lately)
    has_time()
    last = {instance_id: mine[-1] for instance_id, mine in looks.items() if mine}
    places = look_up(asked.reader, frames=(f for look in last.values() for group in look.groups for f in group.path))
    lags = over_time(looks)
    processes = []
    for instance_id, look in sorted(last.items()):
        order = sorted(range(len(look.groups)), key=lambda index: (-look.groups[index].count, index))[:GROUPS_MAX]
        shown = {index: position for position, index in enumerate(order)}
        loops = {each.loop.id: each for each in lags if each.instance_id == instance_id}
        processes.append(
            {
                "instance_id": instance_id,
                "at_ns": look.at_ns,
                "tasks": look.tasks,
                "tasks_examined": look.tasks_examined,
                "groups_total": len(look.groups),
                "loops": [
                    {
                        **plain(loop, without={"id", "lag"}),
                        "lag_p50_s": plain(quantiles(loops[loop.id].lag, [0.5])[0]),
                        "lag_p99_s": plain(quantiles(loops[loop.id].lag, [0.99])[0]),
                        "lag_max_s": plain(loops[loop.id].lag.max_s),
                    }
                    for loop in look.loops
                ],
                "groups": [
                    {
                        **plain(look.groups[index], without={"path"}),
                        "path": _path(places.along(look.groups[index].path)),
                    }
                    for index in order
                ],
                "waits": [
                    {"waiter": shown[waiter], "awaited": shown[awaited], "count": count}
                    for waiter, awaited, count in look.edges
                    if waiter in shown and awaited in shown
                ],
            }
        )
    headline = {"processes": len(last), "tasks": sum(look.tasks for look in last.values())}
    return {"schema": "glassbottom.incident.tasks/1", "processes": processes}, headline, []


def _blocked(asked: Asked, has_time: HasTime) -> Found:
    counted = blocks.counted(asked.reader.observations(asked.service, asked.within, [blocks.KIND]))
    has_time()
    found = blocks.blocks(counted, of_observations(asked.reader, counted))
    rows = [{**plain(each, without={"path"}), "path": _path(each.path)} for each in found[:BLOCKS_MAX]]
    total_s = plain(sum(each.total_s for each in found))
    document = {"schema": "glassbottom.incident.blocked/1", "total_s": total_s, "places": len(found), "blocks": rows}
    return document, {"total_s": total_s, "places": len(found)}, []


def _findings(asked: Asked, has_time: HasTime) -> Found:
    def checked(subject: finder.Subject) -> finder.Subject:
        def look(window: Any) -> Any:
            has_time()
            return subject(window)

        return look

    subjects = [checked(each) for each in finder.ALL]
    report = finder.find(asked.reader, asked.service, asked.within, subjects=subjects)
    rows = [{**plain(each, without={"path"}), "path": _path(each.path)} for each in report.findings[:FINDINGS_MAX]]
    document = {
        "schema": "glassbottom.incident.findings/1",
        "covered": plain(report.covered),
        "findings_total": len(report.findings),
        "findings": rows,
        "notes": list(report.notes),
    }
    headline = {
        "total": len(report.findings),
        "worst": [
            {"severity": each.severity.name.lower(), "kind": each.kind, "sentence": each.sentence}
            for each in report.findings[:SUMMARY_SENTENCES_MAX]
        ],
    }
    return document, headline, []


def _path(path: Sequence[Frame]) -> list[Any]:
    return [plain(frame) for frame in path[:PATH_MAX]]


SUBJECTS: tuple[tuple[str, str, str, Look, float], ...] = (
    ("store.processes", "state/processes.json", "processes and what their agents count", _processes, 2.0),
    ("store.tasks", "state/tasks.json", "tasks and what they wait for", _tasks, 2.0),
    ("store.blocked", "state/blocked.json", "what held event loops", _blocked, 2.0),
    ("store.open_spans", "state/open_spans.json", "spans that have not ended", _open_spans, 2.0),
    ("store.slow", "state/slow.json", "slow operations and spans", _slow, 4.0),
    ("store.heap", "state/heap.json", "heap by line", _heap, 3.0),
    ("store.findings", "state/findings.json", "findings", _findings, 6.0),
    ("store.leaks", "state/leaks.json", "verdicts on leaks", _leaks, 6.0),
)
"""Name, file, what it is in words, how, and the seconds it may take."""
