"""Captured incidents as JSON; json.py has the rules."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from glassbottom.wire.v1 import incident_pb2

from .json import Document, when


def captured(
    record: incident_pb2.IncidentRecord, outcomes: Sequence[incident_pb2.CollectorOutcome], written: Path | None
) -> Document:
    """The document of `glassbottom capture`."""
    return {
        "schema": "glassbottom.capture/1",
        "incident": incident(record),
        "collectors": [
            {
                "name": one.name,
                "state": one.state,
                "sentence": one.sentence or None,
                "ms": one.ms,
                "files": one.files,
                "bytes": one.bytes,
                "notes": list(one.notes),
            }
            for one in outcomes
        ],
        "written_to": None if written is None else str(written),
    }


def planned(plans: Iterable[incident_pb2.PlannedCollector]) -> Document:
    """The document of `glassbottom capture --dry-run`."""
    return {
        "schema": "glassbottom.capture-plan/1",
        "collectors": [
            {
                "name": plan.name,
                "reads": [
                    {
                        "what": read.what,
                        "node": read.node or None,
                        "role": read.role,
                        "cost": read.cost,
                        "timeout_s": read.timeout_s,
                    }
                    for read in plan.reads
                ],
            }
            for plan in plans
        ],
    }


def incidents(records: Iterable[incident_pb2.IncidentRecord]) -> Document:
    """The document of `glassbottom capture --list`."""
    return {"schema": "glassbottom.incidents/1", "incidents": [incident(record) for record in records]}


def checks(found: Iterable[incident_pb2.SourceCheck]) -> Document:
    """The document of `glassbottom doctor`."""
    return {
        "schema": "glassbottom.doctor/1",
        "checks": [
            {"source": one.source, "name": one.name, "state": one.state, "sentence": one.sentence} for one in found
        ],
    }


def incident(record: incident_pb2.IncidentRecord) -> Document:
    """One of them."""
    return {
        "id": record.id,
        "issue": record.issue,
        "service": record.service,
        "at": when(record.at_ns),
        "asked_by": record.asked_by or None,
        "trigger": record.trigger,
        "state": record.state,
        "reason": record.reason or None,
        "file_bytes": record.file_bytes,
        "sha256": record.sha256 or None,
        "deleted_at": when(record.deleted_at_ns) if record.deleted_at_ns else None,
    }
