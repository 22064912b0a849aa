"""What the double of query_double.py says about memory: a checkout that leaks, its paths, changes, snapshots."""

from __future__ import annotations

import math
from dataclasses import dataclass

from glassbottom.wire.v1 import common_pb2, query_pb2, snapshots_pb2

SECOND_NS = 10**9
AT = "2026-11-23T14:05:10Z"
BEFORE = "2026-11-23T13:55:10Z"
AT_NS = 1_795_442_710 * SECOND_NS
BEFORE_NS = AT_NS - 600 * SECOND_NS

MIB = 1024.0 * 1024.0
INSTANCE = "4f2a9c1be0d84d0f8e5b7a6c3d2e1f00"
OTHER_INSTANCE = "a1b2c3d4e5f60718293a4b5c6d7e8f90"

HOSTILE_FUNCTION = "evil\x1b[31m[bold red]x[/]\n;</script><script>alert(1)</script>\u202e"

FRAMES = {
    frame.id: frame
    for frame in (
        common_pb2.Frame(
            id=1, function="Manager.on_connect", file="/srv/checkout/app/realtime/connections/handlers.py", line=42
        ),
        common_pb2.Frame(id=2, function="Catalog.load", file="/srv/checkout/app/catalog/cache.py", line=17),
        common_pb2.Frame(
            id=3,
            function="RequestResponseCycle.run_asgi",
            file="/opt/venv/lib/python3.12/site-packages/uvicorn/protocols/http/h11_impl.py",
            line=403,
        ),
        common_pb2.Frame(id=4, function="<module>", file="/srv/checkout/app/main.py", line=9),
        common_pb2.Frame(id=5, function="JSONDecoder.raw_decode", file="/usr/lib/python3.12/json/decoder.py", line=353),
        common_pb2.Frame(id=6, function=HOSTILE_FUNCTION, file="/tmp/[link]x.py", line=7),
    )
}


@dataclass(frozen=True)
class HeldPath:
    """One call path (frame ids, innermost first) and its values; fractions on purpose."""

    frames: tuple[int, ...]
    live_bytes: float
    live_objects: float
    before_live_bytes: float
    types: tuple[tuple[str, float], ...] = (("bytes", 0.9), ("dict", 0.1))
    route: str = ""

    @property
    def before_live_objects(self) -> float:
        """In proportion."""
        return self.before_live_bytes / 1000.0


HEAP = (
    HeldPath(
        (1, 3, 4),
        88.4 * MIB + 1 / 3,
        45_210.25,
        24.1 * MIB,
        (("bytes", 0.8), ("function", 0.15), ("dict", 0.05)),
        "GET /ws",
    ),
    HeldPath((1, 4), 4.2 * MIB + 1 / 3, 2100.5, 4.2 * MIB + 1 / 3),
    HeldPath((2, 3, 4), 31.0 * MIB + 1 / 3, 9000.75, 31.5 * MIB, route="GET /catalog"),
    HeldPath((5, 2, 3, 4), 2.5 * MIB, 40_000.5, 2.4 * MIB),
    HeldPath((6, 3, 4), 700_000.6, 12.4, 0.0, (("evil\x1b]0;title\x07.Type", 1.0),)),
    HeldPath((2, 4), 0.0, 0.0, 1.5 * MIB + 0.7),
)


def totals(before: bool = False) -> query_pb2.Totals:
    """Sums of HEAP."""
    return query_pb2.Totals(
        live_bytes=math.fsum(path.before_live_bytes if before else path.live_bytes for path in HEAP),
        live_bytes_stderr=3.1 * MIB,
        live_objects=math.fsum(path.before_live_objects if before else path.live_objects for path in HEAP),
        resident_bytes=310 * MIB,
        samples=254,
        instances=2,
        at_ns=(BEFORE_NS if before else AT_NS) - 4 * SECOND_NS,
    )


def site(frame_id: int) -> query_pb2.Site:
    """A row of `top` by line, summed over HEAP."""
    paths = [path for path in HEAP if path.frames[0] == frame_id]
    live = math.fsum(path.live_bytes for path in paths)
    largest = max(paths, key=lambda path: path.live_bytes)
    return query_pb2.Site(
        frame=FRAMES[frame_id],
        live_bytes=live,
        live_bytes_stderr=math.sqrt(live * 512 * 1024),
        live_objects=math.fsum(path.live_objects for path in paths),
        live_objects_stderr=10.0,
        alloc_bytes=live * 3,
        samples=round(live / (512 * 1024)),
        types=[
            query_pb2.TypeShare(type=name, live_bytes=part * live, live_objects=part * 1000)
            for name, part in largest.types
        ],
        path=[FRAMES[each] for each in largest.frames],
        routes=[
            query_pb2.RouteShare(route=path.route, live_bytes=path.live_bytes, live_objects=path.live_objects)
            for path in paths
            if path.route
        ],
    )


def leak_report() -> query_pb2.LeakReport:
    """One leak, one site that grows, one that cannot be told, one rule hit."""
    return query_pb2.LeakReport(
        findings=[
            query_pb2.LeakFinding(
                verdict=query_pb2.VERDICT_LEAK,
                site=site(1),
                bytes_per_second=0.1073 * MIB,
                bytes_per_second_low=0.0981 * MIB,
                bytes_per_second_high=0.1169 * MIB,
                objects_per_second=71.8,
                objects_per_second_low=66.0,
                objects_per_second_high=77.5,
                p_value=1.2e-9,
                evidence=[
                    query_pb2.Evidence(
                        name="trend",
                        supports_leak=True,
                        sentence="Live bytes rose in 23 of 24 steps (Theil-Sen slope).",
                    ),
                    query_pb2.Evidence(
                        name="warm-up",
                        supports_leak=False,
                        sentence="The first third of the 11 minutes since the start is left out of the trend.",
                    ),
                ],
                would_change="A flat stretch of 5 minutes under the same load.",
                instance_ids=[INSTANCE, OTHER_INSTANCE],
                kind=query_pb2.LEAK_KIND_REACHABLE,
                per_operation=[
                    query_pb2.PerOperation(
                        operation="GET /ws",
                        bytes=2.0 * MIB,
                        bytes_low=1.9 * MIB,
                        bytes_high=2.1 * MIB,
                        objects=1300.0,
                        operations=118,
                        attributed=True,
                    )
                ],
                holder="app.ws.HANDLERS dict -> list[18 204] -> bound method -> Session",
                first_seen_ns=AT_NS - 86_400 * SECOND_NS,
                first_seen_version="1.4.2",
            ),
            query_pb2.LeakFinding(
                verdict=query_pb2.VERDICT_GROWING,
                site=site(5),
                bytes_per_second=180.0,
                bytes_per_second_low=20.0,
                bytes_per_second_high=340.0,
                objects_per_second=2.0,
                p_value=0.03,
                evidence=[
                    query_pb2.Evidence(name="load", supports_leak=False, sentence="Requests rose by 40 % meanwhile.")
                ],
                would_change="Growth that goes on while load is level.",
                instance_ids=[INSTANCE],
                application_frame=FRAMES[2],
            ),
            query_pb2.LeakFinding(
                verdict=query_pb2.VERDICT_UNCLEAR,
                site=site(6),
                bytes_per_second=10.0,
                bytes_per_second_low=math.nan,
                bytes_per_second_high=math.nan,
                p_value=1.0,
                evidence=[query_pb2.Evidence(name="data", supports_leak=False, sentence="Only 2 samples.")],
                would_change="More samples.",
                instance_ids=[INSTANCE],
            ),
        ],
        sites_examined=214,
        snapshots=24,
        covered=query_pb2.Range(from_ns=AT_NS - 238 * SECOND_NS, to_ns=AT_NS),
        totals=totals(),
        total_bytes_per_second=0.11 * MIB,
        rule_hits=[rule_hit()],
        notes=["Process a1b2c3d4 restarted at 14:01:12Z; what came before is left out."],
        forecast=query_pb2.Forecast(
            limit="container",
            limit_bytes=512 * MIB,
            room_bytes=400 * MIB,
            bytes_per_second=0.11 * MIB,
            seconds_10=3400.0,
            seconds_50=3600.0,
            seconds_90=math.inf,
            instance_ids=[INSTANCE, OTHER_INSTANCE],
            sentence="At 113 KiB/s the 400 MiB left to the container's limit of 512 MiB last about 60 min.",
        ),
        memory=[
            query_pb2.MemoryPart(name="python", first_bytes=60 * MIB, last_bytes=92 * MIB, bytes_per_second=0.11 * MIB),
            query_pb2.MemoryPart(name="files", first_bytes=9 * MIB, last_bytes=9 * MIB),
        ],
    )


def rule_hit() -> query_pb2.RuleHit:
    """The specification's rule, fired once."""
    return query_pb2.RuleHit(
        rule="growth-over-1MiB-per-second",
        sentence="Process 4f2a9c1b grew by 14.1 MiB in 10.0 s, 1.41 MiB/s.",
        instance_id=INSTANCE,
        from_ns=AT_NS - 20 * SECOND_NS,
        to_ns=AT_NS - 10 * SECOND_NS,
        bytes_per_second=1.41 * MIB,
    )


def changes() -> list[query_pb2.SiteChange]:
    """A growth that is significant, and a decline that is not."""
    return [
        query_pb2.SiteChange(
            site=site(1),
            delta_bytes=64.3 * MIB,
            delta_bytes_stderr=5.9 * MIB,
            delta_objects=31_000.0,
            significant=True,
        ),
        query_pb2.SiteChange(site=site(2), delta_bytes=-2.0 * MIB, delta_bytes_stderr=5.6 * MIB, delta_objects=-700.0),
    ]


def split(more_mib: float) -> snapshots_pb2.MemorySplit:
    """Resident memory of 310 MiB and what Python holds more."""
    parts = {"python": 180 + more_mib, "pymalloc free": 12, "C heap": 40, "malloc free": 6, "stacks": 2, "files": 70}
    return snapshots_pb2.MemorySplit(
        resident_bytes=(310 + more_mib) * MIB,
        parts=[snapshots_pb2.MemoryShare(name=name, bytes=size * MIB) for name, size in parts.items()],
        at_ns=AT_NS,
    )


def snapshots() -> snapshots_pb2.ListSnapshotsResponse:
    """A baseline, what grew from it, and a process of which only that one moment is known."""
    rows = [
        (INSTANCE, "before", BEFORE_NS, 62.0, 0.0, True, split(0)),
        (INSTANCE, "after\x1b[31m 500 requests", AT_NS, 126.8, 64.8, False, split(60)),
        (OTHER_INSTANCE, "before", BEFORE_NS, 12.0, 0.0, True, None),
    ]
    return snapshots_pb2.ListSnapshotsResponse(
        snapshots=[
            snapshots_pb2.LabelledSnapshot(
                label=label,
                instance_id=instance,
                at_ns=at_ns,
                live_bytes=live * MIB,
                live_bytes_stderr=3.1 * MIB,
                growth_bytes=grown * MIB,
                growth_bytes_stderr=0.0 if baseline else 4.4 * MIB,
                baseline=baseline,
                memory=memory,
            )
            for instance, label, at_ns, live, grown, baseline, memory in rows
        ],
        more=4,
    )
