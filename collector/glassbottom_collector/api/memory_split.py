"""What resident memory consisted of at the moment of a snapshot, from the readings nearest to it."""

from __future__ import annotations

from collections.abc import Sequence

from glassbottom.wire.v1 import snapshots_pb2

from ..model.heap import SnapshotHeader
from ..model.process import Span
from ..storage import Reader
from .selection import SECOND_NS

RESIDENT = "process.memory.usage"
NEAR_NS = 60 * SECOND_NS
"""A reading further away says nothing of that moment."""


def split_at(reader: Reader, service: str, header: SnapshotHeader) -> snapshots_pb2.MemorySplit:
    """Of the process and at the moment of a snapshot; empty when it told nothing about that time."""
    within = Span(max(header.at_ns - NEAR_NS, 0), header.at_ns + NEAR_NS + 1)
    points = reader.metrics(service, within, [RESIDENT], header.instance_id).get(header.instance_id, ())
    nearest = min(points, key=lambda point: abs(point.at_ns - header.at_ns), default=None)
    if nearest is None:
        return snapshots_pb2.MemorySplit()
    return snapshots_pb2.MemorySplit(resident_bytes=nearest.value, at_ns=nearest.at_ns)


def together(splits: Sequence[snapshots_pb2.MemorySplit]) -> snapshots_pb2.MemorySplit:
    """Sums over processes; empty when one of them is not known, since a part of a sum is no sum."""
    if not splits or not all(split.resident_bytes for split in splits):
        return snapshots_pb2.MemorySplit()
    sums: dict[str, float] = {}
    for split in splits:
        for part in split.parts:
            sums[part.name] = sums.get(part.name, 0.0) + part.bytes
    complete = all(split.parts for split in splits)
    return snapshots_pb2.MemorySplit(
        resident_bytes=sum(split.resident_bytes for split in splits),
        parts=[snapshots_pb2.MemoryShare(name=name, bytes=size) for name, size in sums.items()] if complete else [],
        at_ns=min(split.at_ns for split in splits),
    )
