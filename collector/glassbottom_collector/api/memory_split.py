"""What resident memory consisted of at the moment of a snapshot, from the readings around it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from glassbottom.wire.v1 import snapshots_pb2

from ..leaks import parts, readings
from ..model.heap import SnapshotHeader
from ..model.process import Span
from ..storage import Reader
from .selection import SECOND_NS

NEAR_NS = 60 * SECOND_NS
"""A reading of resident memory further away says nothing of that moment."""
AROUND_NS = 180 * SECOND_NS
"""What is costly to read is read once a minute or seldomer; between two readings it is taken to move in a line."""


def split_at(reader: Reader, service: str, header: SnapshotHeader) -> snapshots_pb2.MemorySplit:
    """Of the process and at the moment of a snapshot; empty when it told nothing about that time."""
    within = Span(max(header.at_ns - AROUND_NS, 0), header.at_ns + AROUND_NS + 1)
    told = readings.read(reader, service, within, header.instance_id).get(header.instance_id)
    resident = None if told is None else told.get(readings.RESIDENT)
    if told is None or resident is None:
        return snapshots_pb2.MemorySplit()
    nearest_ns = int(resident.at_ns[np.abs(resident.at_ns - header.at_ns).argmin()])
    if abs(nearest_ns - header.at_ns) > NEAR_NS:
        return snapshots_pb2.MemorySplit()
    at_ns = np.array([header.at_ns], dtype=np.int64)
    found = parts.of(told, at_ns)
    shares = {} if found is None else {name: max(0.0, float(values[0])) for name, values in found.values.items()}
    return snapshots_pb2.MemorySplit(
        resident_bytes=float(resident.at(at_ns)[0]),
        parts=[snapshots_pb2.MemoryShare(name=name, bytes=size) for name, size in shares.items()],
        at_ns=nearest_ns,
    )


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
