"""The documents of `snapshot list` and `snapshot diff`; see json.py for what holds for all."""

from __future__ import annotations

from glassbottom.wire.v1 import snapshots_pb2

from .json import Document, changes, totals, when


def snapshot_list(response: snapshots_pb2.ListSnapshotsResponse, service: str) -> Document:
    """The document of `glassbottom snapshot list`."""
    return {
        "schema": "glassbottom.snapshot-list/1",
        "service": service,
        "snapshots": [
            {
                "label": each.label,
                "instance_id": each.instance_id,
                "at": when(each.at_ns),
                "live_bytes": each.live_bytes,
                "live_bytes_stderr": each.live_bytes_stderr,
                "baseline": each.baseline,
                "growth_bytes": each.growth_bytes,
                "growth_bytes_stderr": each.growth_bytes_stderr,
                "memory": memory(each.memory),
            }
            for each in response.snapshots
        ],
        "more": response.more,
    }


def snapshot_diff(response: snapshots_pb2.DiffSnapshotsResponse, service: str, group_by: str) -> Document:
    """The document of `glassbottom snapshot diff`."""
    return {
        "schema": "glassbottom.snapshot-diff/1",
        "service": service,
        "group_by": group_by,
        "before": _side(response.before),
        "after": _side(response.after),
        "delta_bytes": response.delta_bytes,
        "delta_bytes_stderr": response.delta_bytes_stderr,
        "changes": changes(response.changes, group_by),
        "notes": list(response.notes),
    }


def memory(split: snapshots_pb2.MemorySplit) -> Document | None:
    """What resident memory consisted of; None when that is not known."""
    if not split.resident_bytes:
        return None
    return {
        "resident_bytes": split.resident_bytes,
        "parts": {part.name: part.bytes for part in split.parts},
        "at": when(split.at_ns),
    }


def _side(side: snapshots_pb2.SnapshotSide) -> Document:
    return {"label": side.label or None, "totals": totals(side.totals), "memory": memory(side.memory)}
