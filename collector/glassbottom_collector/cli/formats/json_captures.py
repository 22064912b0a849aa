"""Captures as JSON; json.py has the rules."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from glassbottom.wire.v1 import control_pb2, ingest_pb2

from .json import Document, when

STATES = {
    control_pb2.CAPTURE_STATE_ORDERED: "ordered",
    control_pb2.CAPTURE_STATE_RUNNING: "running",
    control_pb2.CAPTURE_STATE_UPLOADING: "uploading",
    control_pb2.CAPTURE_STATE_STORED: "stored",
    control_pb2.CAPTURE_STATE_REFUSED: "refused",
    control_pb2.CAPTURE_STATE_FAILED: "failed",
}
STYLES = {
    "ordered": "yellow",
    "running": "yellow",
    "uploading": "yellow",
    "stored": "green",
    "refused": "yellow",
    "failed": "red",
}


def state(record: control_pb2.CaptureRecord) -> str:
    """In one word; what a newer collector says and we do not know counts as running."""
    return STATES.get(record.state, "running")


def kind(record: control_pb2.CaptureRecord) -> str:
    """By its name in GLASSBOTTOM_COMMANDS."""
    if record.kind not in ingest_pb2.CommandKind.values():
        return "unknown"
    return ingest_pb2.CommandKind.Name(record.kind).removeprefix("COMMAND_KIND_").lower()


def dump(record: control_pb2.CaptureRecord, written: Path | None) -> Document:
    """The document of `glassbottom dump`, and of one capture."""
    return {
        "schema": "glassbottom.dump/1",
        "capture": capture(record),
        "written_to": None if written is None else str(written),
    }


def captures(records: Iterable[control_pb2.CaptureRecord]) -> Document:
    """The document of `glassbottom captures`."""
    return {"schema": "glassbottom.captures/1", "captures": [capture(record) for record in records]}


def capture(record: control_pb2.CaptureRecord) -> Document:
    """One of them."""
    return {
        "id": record.id,
        "kind": kind(record),
        "service": record.service,
        "instance_id": record.instance_id or None,
        "state": state(record),
        "reason": record.reason,
        "asked_at": when(record.asked_at_ns),
        "asked_by": record.asked_by,
        "ended_at": when(record.ended_at_ns) if record.ended_at_ns else None,
        "lease_until": when(record.lease_until_ns),
        "seconds": record.seconds or None,
        "bytes_max": record.bytes_max,
        "options": dict(sorted(record.options.items())),
        "file_bytes": record.file_bytes,
        "stored_bytes": record.stored_bytes,
        "file_deleted_at": when(record.deleted_at_ns) if record.deleted_at_ns else None,
        "numbers": dict(sorted(record.numbers.items())),
        "texts": dict(sorted(record.texts.items())),
    }
