"""A collector's answers without a collector: a real gRPC server whose QueryService and ControlService say fixed things.

For tests of the command line only, which need every kind of answer on demand, errors included. What a real collector
answers is tested against a real one, in tests/system.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import NoReturn

import grpc
from glassbottom.wire.v1 import (
    common_pb2,
    control_pb2,
    control_pb2_grpc,
    ingest_pb2,
    query_pb2,
    query_pb2_grpc,
    snapshots_pb2,
    snapshots_pb2_grpc,
)

from tests.support import query_double_time

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


@dataclass
class Answers:
    """What the double is to say; tests change it."""

    services: tuple[str, ...] = ("checkout",)
    error: tuple[grpc.StatusCode, str] | None = None
    changes: list[query_pb2.SiteChange] = field(default_factory=changes)
    leaks: query_pb2.LeakReport = field(default_factory=leak_report)
    tasks: query_pb2.TasksResponse = field(default_factory=query_double_time.tasks)
    blocked: query_pb2.BlockedResponse = field(default_factory=query_double_time.blocked)
    findings: query_pb2.FindingsResponse = field(default_factory=query_double_time.findings)
    snapshots: snapshots_pb2.ListSnapshotsResponse = field(default_factory=snapshots)
    outcomes: tuple[control_pb2.InstanceOutcome, ...] = (
        control_pb2.InstanceOutcome(instance_id=INSTANCE, outcome=ingest_pb2.COMMAND_OUTCOME_DONE),
    )
    # Set by the double when a caller is waiting for an answer that never comes.
    hangs: bool = False
    hanging: threading.Event = field(default_factory=threading.Event)
    requests: list[object] = field(default_factory=list)


class QueryDouble(query_pb2_grpc.QueryServiceServicer):
    """QueryService with the answers of `Answers`."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def ListServices(self, request: query_pb2.ListServicesRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, "", context)
        return query_pb2.ListServicesResponse(
            services=[
                query_pb2.Service(
                    name=name,
                    instances=3,
                    instances_connected=2,
                    last_seen_ns=AT_NS - 3 * SECOND_NS,
                    live_bytes=126.8 * MIB,
                    resident_bytes=310 * MIB,
                )
                for name in self._answers.services
            ]
        )

    def Status(self, request: query_pb2.StatusRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.service, context)
        return query_pb2.StatusResponse(
            collector=query_pb2.CollectorStatus(
                version="0.1.0",
                started_at_ns=AT_NS - 3600 * SECOND_NS,
                problems=["day=2026-11-22.duckdb was unreadable and is set aside as day=2026-11-22.duckdb.corrupt."],
                statistics={"rows_stored_total": 12345.0, "ack_ms_p99": math.nan},
            ),
            instances=[
                query_pb2.InstanceStatus(
                    process=common_pb2.Process(
                        service="checkout",
                        instance_id=INSTANCE,
                        pid=4711,
                        started_at_ns=AT_NS - 3000 * SECOND_NS,
                        attributes={"host.name": "web-1"},
                    ),
                    connected=True,
                    last_seen_ns=AT_NS,
                    agent_version="0.1.0",
                    sampler_state="running",
                    statistics={
                        "sampler_interval_bytes": 524288.0,
                        "sampler_window_share": 0.25,
                        "agent_cpu_ratio": 0.0042,
                        "sampler_samples_dropped_total": 0.0,
                        "queue_bytes": 65536.0,
                        "queue_bytes_max": 8388608.0,
                        "queue_dropped_batches_total": 0.0,
                    },
                    clock_skew_s=0.0123,
                ),
                query_pb2.InstanceStatus(
                    process=common_pb2.Process(
                        service="checkout", instance_id=OTHER_INSTANCE, pid=4712, started_at_ns=AT_NS - 3000 * SECOND_NS
                    ),
                    connected=False,
                    last_seen_ns=AT_NS - 120 * SECOND_NS,
                    agent_version="0.1.0",
                    sampler_state="refused",
                    sampler_reason="tracemalloc sits above the sampler; stop it, or start it before glassbottom.",
                    statistics={"queue_bytes": 0.0, "queue_bytes_max": 8388608.0, "queue_dropped_batches_total": 12.0},
                    clock_skew_s=-2.5,
                ),
            ],
        )

    def Top(self, request: query_pb2.TopRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.selector.service, context)
        if request.group_by == query_pb2.GROUP_BY_TYPE:
            rows = [
                query_pb2.Site(type=name, live_bytes=part * 126 * MIB, live_objects=10.0)
                for name, part in HEAP[0].types
            ]
        elif request.group_by == query_pb2.GROUP_BY_ROUTE:
            rows = [
                query_pb2.Site(
                    type=path.route,
                    live_bytes=path.live_bytes,
                    live_objects=path.live_objects,
                    types=[query_pb2.TypeShare(type="bytes", live_bytes=path.live_bytes)],
                )
                for path in HEAP[:3]
            ]
        else:
            rows = sorted(map(site, (1, 2, 5, 6)), key=lambda row: -row.live_bytes)
        return query_pb2.TopResponse(sites=rows[: request.limit or 20], totals=totals())

    def Timeline(self, request: query_pb2.TimelineRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.selector.service, context)
        step_ns = (request.range.to_ns - request.range.from_ns) // request.points
        growing = [math.nan, *(MIB * (40 + 2 * at) for at in range(request.points - 1))]
        return query_pb2.TimelineResponse(
            at_ns=[request.range.from_ns + at * step_ns for at in range(request.points)],
            series=[
                query_pb2.Series(name="live_bytes", values=growing),
                query_pb2.Series(name="resident_bytes", values=[200 * MIB] * request.points),
                query_pb2.Series(name="instances", values=[2.0] * request.points),
                query_pb2.Series(name="site", frame=FRAMES[1], values=growing),
            ],
        )

    def Diff(self, request: query_pb2.DiffRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.selector.service, context)
        return query_pb2.DiffResponse(
            changes=self._answers.changes,
            before=totals(before=True),
            after=totals(),
            rule_hits=[rule_hit()],
        )

    def Profile(self, request: query_pb2.ProfileRequest, context: grpc.ServicerContext) -> Iterator[object]:
        self._begin(request, request.selector.service, context)
        if request.kind == query_pb2.PROFILE_KIND_TIME:
            yield query_double_time.time_profile(request)
            return
        seen: set[int] = set()
        # The same heap at the earlier moment, for whoever asks for that alone.
        earlier = request.at_ns == BEFORE_NS
        kept = [path for path in HEAP if request.route in ("", path.route)]
        for at, path in enumerate(kept):
            new = [FRAMES[frame] for frame in path.frames if frame not in seen]
            seen.update(path.frames)
            stack = query_pb2.ProfileStack(
                frames=path.frames,
                live_bytes=path.before_live_bytes if earlier else path.live_bytes,
                live_objects=path.before_live_objects if earlier else path.live_objects,
                alloc_bytes=path.live_bytes * 2.5,
                alloc_objects=path.live_objects * 2.5,
                route=path.route,
            )
            if request.before_ns:
                stack.before_live_bytes = path.before_live_bytes
                stack.before_live_objects = path.before_live_objects
            piece = query_pb2.ProfileResponse(frames=new, stacks=[stack])
            if at == 0:
                piece.totals.CopyFrom(totals(before=earlier))
                piece.interval_bytes = 524288.0
                if request.before_ns:
                    piece.before.CopyFrom(totals(before=True))
            yield piece

    def Leaks(self, request: query_pb2.LeaksRequest, context: grpc.ServicerContext) -> Iterator[object]:
        for at in range(3):
            yield query_pb2.LeaksResponse(progress=query_pb2.Progress(stage="reading snapshots", done=8 * at, total=24))
        self._begin(request, request.selector.service, context)
        yield query_pb2.LeaksResponse(report=self._answers.leaks)

    def Slow(self, request: query_pb2.SlowRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.selector.service, context)
        return query_double_time.slow(request)

    def Tasks(self, request: query_pb2.TasksRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.selector.service, context)
        return self._answers.tasks

    def Blocked(self, request: query_pb2.BlockedRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.selector.service, context)
        return self._answers.blocked

    def Findings(self, request: query_pb2.FindingsRequest, context: grpc.ServicerContext) -> object:
        self._begin(request, request.selector.service, context)
        return self._answers.findings

    def _begin(self, request: object, service: str, context: grpc.ServicerContext) -> None:
        begin(self._answers, request, service, context)


def begin(answers: Answers, request: object, service: str, context: grpc.ServicerContext) -> None:
    """What every question begins with: it is noted, and fails in the way that the test wants."""
    answers.requests.append(request)
    if answers.hangs:
        _hang(answers, context)
    if answers.error is not None:
        _abort(context, *answers.error)
    if service and service not in answers.services:
        known = ", ".join(answers.services)
        _abort(context, grpc.StatusCode.NOT_FOUND, f"There is no service {service!r}; there are: {known}.")


class SnapshotDouble(snapshots_pb2_grpc.SnapshotServiceServicer):
    """SnapshotService with the answers of `Answers`."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def ListSnapshots(self, request: snapshots_pb2.ListSnapshotsRequest, context: grpc.ServicerContext) -> object:
        begin(self._answers, request, request.selector.service, context)
        return self._answers.snapshots

    def DiffSnapshots(self, request: snapshots_pb2.DiffSnapshotsRequest, context: grpc.ServicerContext) -> object:
        begin(self._answers, request, request.selector.service, context)
        return snapshots_pb2.DiffSnapshotsResponse(
            before=snapshots_pb2.SnapshotSide(label=request.before.label, totals=totals(before=True), memory=split(0)),
            after=snapshots_pb2.SnapshotSide(label=request.after.label, totals=totals(), memory=split(60)),
            changes=self._answers.changes,
            delta_bytes=62.3 * MIB,
            delta_bytes_stderr=6.1 * MIB,
            notes=["1 process is left out: only the later side has it."],
        )


class ControlDouble(control_pb2_grpc.ControlServiceServicer):
    """ControlService with the answers of `Answers`."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def TakeSnapshot(self, request: control_pb2.TakeSnapshotRequest, context: grpc.ServicerContext) -> object:
        self._answers.requests.append(request)
        return control_pb2.TakeSnapshotResponse(outcomes=self._answers.outcomes)


@contextlib.contextmanager
def serving(
    answers: Answers, credentials: grpc.ServerCredentials | None = None, address: str = "127.0.0.1:0"
) -> Iterator[str]:
    """Serves on a free port of the loopback interface, or where an earlier one did; gives HOST:PORT."""
    server = grpc.server(futures.ThreadPoolExecutor(8, thread_name_prefix="query-double"))
    query_pb2_grpc.add_QueryServiceServicer_to_server(QueryDouble(answers), server)
    control_pb2_grpc.add_ControlServiceServicer_to_server(ControlDouble(answers), server)
    snapshots_pb2_grpc.add_SnapshotServiceServicer_to_server(SnapshotDouble(answers), server)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait(10)


def _hang(answers: Answers, context: grpc.ServicerContext) -> None:
    gone = threading.Event()
    context.add_callback(gone.set)
    answers.hanging.set()
    gone.wait(60)


def _abort(context: grpc.ServicerContext, code: grpc.StatusCode, details: str) -> NoReturn:
    context.abort(code, details)
    raise AssertionError("abort raises")
