"""Which snapshots carry the evidence: for each process and epoch those behind its warm-up, cut into blocks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..model.heap import I64, SnapshotHeader
from ..model.process import ProcessSeen, Span
from ..storage import Reader
from .blocks import edges_of

WARM_UP_SHARE = 0.25
# Processes whose data covers this much of the longest are analysed as one.
POOL_SHARE = 0.8

Life = tuple[str, int]  # instance and epoch


@dataclass(frozen=True)
class Plan:
    """Headers by instance and time; for each life the snapshots left after its warm-up; edges for each life that has
    enough of them, and common edges for those that lived through the window together."""

    headers: tuple[SnapshotHeader, ...]
    lives: Mapping[Life, tuple[SnapshotHeader, ...]]
    used: Mapping[Life, I64]
    edges: Mapping[Life, I64]
    pool: frozenset[Life]
    pool_edges: I64 | None


def plan_of(reader: Reader, service: str, within: Span, instance_id: str | None) -> Plan:
    seen = {each.process.instance_id: each for each in reader.processes(service, within)}
    # A third of the window earlier is enough to know whether its beginning lies in the first quarter of a life.
    before = Span(max(within.from_ns - (within.to_ns - within.from_ns) // 2, 0), within.to_ns)
    lives: dict[Life, list[SnapshotHeader]] = {}
    born: dict[Life, int] = {}
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
    return Plan(
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


def _pool(used: Mapping[Life, I64], edges: Mapping[Life, I64]) -> tuple[frozenset[Life], I64 | None]:
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


def latest_lives(plan: Plan) -> set[Life]:
    """The newest epoch of each instance that still sent snapshots near the end of the window."""
    newest: dict[str, Life] = {}
    for life, headers in plan.lives.items():
        other = newest.get(life[0])
        if other is None or headers[-1].at_ns > plan.lives[other][-1].at_ns:
            newest[life[0]] = life
    end = max(plan.lives[life][-1].at_ns for life in newest.values())
    start = min(header.at_ns for header in plan.headers)
    return {life for life in newest.values() if end - plan.lives[life][-1].at_ns <= max((end - start) / 10, 60e9)}
