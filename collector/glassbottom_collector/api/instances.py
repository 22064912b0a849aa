"""Which services and processes there are: what is connected now, joined with what the store has seen."""

from __future__ import annotations

from collections.abc import Sequence

from glassbottom.wire.v1 import common_pb2, query_pb2

from ..errors import NotFound
from ..model.live import InstanceLive
from ..model.process import Process, ProcessSeen, Span
from ..storage import Reader
from .selection import SECOND_NS, no_service

SEEN_S = 3600
LATEST_S = 600
"""Older snapshots and readings say nothing about now."""
RESIDENT = "process.memory.usage"


def services(reader: Reader, live: Sequence[InstanceLive], within: Span, now_ns: int) -> list[query_pb2.Service]:
    """Services with data in the range, and those connected when it reaches to now; by name."""
    connected = [each for each in live if each.connected] if within.from_ns <= now_ns else []
    current = connected if within.to_ns >= now_ns - LATEST_S * SECOND_NS else []
    names = {*reader.services(within), *(each.process.service for each in current)}
    return [
        _service(reader, name, [e for e in connected if e.process.service == name], within, now_ns)
        for name in sorted(names)
    ]


def _service(
    reader: Reader, name: str, connected: Sequence[InstanceLive], within: Span, now_ns: int
) -> query_pb2.Service:
    seen = reader.processes(name, within)
    ids = {each.process.instance_id for each in connected}
    lately = Span(max(now_ns - LATEST_S * SECOND_NS, 0), now_ns + 1)
    newest = {header.instance_id: header.live_bytes for header in reader.headers(name, lately)}
    readings = reader.metrics(name, lately, [RESIDENT]) if ids else {}
    return query_pb2.Service(
        name=name,
        instances=len(ids | {each.process.instance_id for each in seen}),
        instances_connected=len(ids),
        last_seen_ns=max([each.last_seen_ns for each in seen] + [each.last_seen_ns for each in connected], default=0),
        live_bytes=sum(size for instance, size in newest.items() if instance in ids),
        resident_bytes=sum(points[-1].value for instance, points in readings.items() if instance in ids and points),
    )


def status(reader: Reader, live: Sequence[InstanceLive], service: str, now_ns: int) -> list[query_pb2.InstanceStatus]:
    """Every process connected or seen within the last hour, by service and start. Raises NotFound."""
    within = Span(max(now_ns - SEEN_S * SECOND_NS, 0), now_ns + 1)
    names = [service] if service else reader.services(within)
    found = {each.process.instance_id: _of_live(each) for each in live if service in ("", each.process.service)}
    for name in names:
        for seen in reader.processes(name, within):
            found.setdefault(seen.process.instance_id, _of_store(seen))
    if service and not found:
        raise NotFound(no_service(reader, service, within, now_ns))
    return sorted(found.values(), key=lambda each: (each.process.service, each.process.started_at_ns))


def _of_live(live: InstanceLive) -> query_pb2.InstanceStatus:
    return query_pb2.InstanceStatus(
        process=_process(live.process),
        connected=live.connected,
        last_seen_ns=live.last_seen_ns,
        agent_version=live.agent_version,
        sampler_state=live.sampler_state,
        sampler_reason=live.sampler_reason,
        statistics=dict(live.statistics),
        clock_skew_s=live.clock_skew_s,
    )


def _of_store(seen: ProcessSeen) -> query_pb2.InstanceStatus:
    return query_pb2.InstanceStatus(
        process=_process(seen.process),
        connected=False,
        last_seen_ns=seen.last_seen_ns,
        agent_version=seen.agent_version,
        sampler_state="unknown",
    )


def _process(process: Process) -> common_pb2.Process:
    return common_pb2.Process(
        service=process.service,
        instance_id=process.instance_id,
        pid=process.pid,
        started_at_ns=process.started_at_ns,
        attributes=dict(process.attributes),
    )
