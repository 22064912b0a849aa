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
from tests.support.query_double_memory import (
    AT_NS,
    BEFORE_NS,
    FRAMES,
    HEAP,
    INSTANCE,
    MIB,
    OTHER_INSTANCE,
    SECOND_NS,
    changes,
    leak_report,
    rule_hit,
    site,
    snapshots,
    split,
    totals,
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
