"""Capture the state around an incident into one archive.

The collector asks the service's processes, its own store and the databases of its configuration, makes everything
harmless, and keeps the archive; a copy is written here. What could not be read is told, and the rest goes on. Databases
are asked on their replica; --activity also asks the one that takes writes, where slow queries and locks are.

  glassbottom capture ISSUE              capture now; writes debug_YYYYMMDD_HHMMSS.tar.gz here
  glassbottom capture ISSUE --dry-run    show every query and file that would be read, and read nothing
  glassbottom capture --list             what was captured
  glassbottom capture ISSUE --fetch      write the latest archive of that issue, or of that id, here again

Exit code 3 when some of it could not be captured; `glassbottom doctor` tells beforehand.

examples:
  glassbottom capture OPS-4711 --service checkout
  glassbottom capture OPS-4711 --service checkout --activity --last 2h
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from . import client, dump, output
from .exits import CliError, Exit, UsageError
from .formats.table import Cell, Column, Report
from .text import elapsed, moment, size
from .timespec import SECOND_NS, length_ns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from glassbottom.wire.v1 import incident_pb2
    from glassbottom.wire.v1.incident_pb2_grpc import IncidentServiceStub

TIMEOUT_S = 120.0
LISTED = 50
STYLES = {
    "done": "green",
    "stored": "green",
    "partial": "yellow",
    "refused": "yellow",
    "late": "yellow",
    "failed": "red",
    "broken": "red",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the verb's options."""
    parser.add_argument("issue", nargs="?", metavar="ISSUE", default="", help="what the incident is called elsewhere")
    client.add_service_arguments(parser)
    parser.add_argument("--last", metavar="LENGTH", default="1h", help="how far back to look (1h)")
    parser.add_argument("--activity", action="store_true", help="also ask the databases that take writes")
    parser.add_argument(
        "--only", metavar="NAME", action="append", default=[], help="only collectors whose name begins so; repeatable"
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--dry-run", action="store_true", help="show what would be read, and read nothing")
    mode.add_argument("--list", action="store_true", help="what was captured, the latest first")
    mode.add_argument("--fetch", action="store_true", help="write a kept archive here again")
    group = parser.add_argument_group("output")
    group.add_argument("-o", "--format", choices=output.TABLE_OR_JSON, default="table", help="table, json (table)")
    group.add_argument("--output", dest="file", metavar="FILE", type=Path, help="write the archive there")
    group.add_argument("--keep-there", action="store_true", help="leave the archive with the collector alone")
    parser.set_defaults(output=None)
    client.add_arguments(parser, TIMEOUT_S)


def run(args: argparse.Namespace) -> int:
    """Captures, or shows what would be or was."""
    if args.list:
        return _list(args)
    if not args.issue:
        raise UsageError("capture needs the name of the issue, such as OPS-4711; or --list.")
    if args.fetch:
        return _fetch_again(args)
    return _plan(args) if args.dry_run else _capture(args)


def _request(args: argparse.Namespace, service: str) -> incident_pb2.CaptureIncidentRequest:
    from glassbottom.wire.v1.incident_pb2 import CaptureIncidentRequest

    return CaptureIncidentRequest(
        issue=args.issue,
        service=service,
        seconds=length_ns(args.last) / SECOND_NS,
        activity=args.activity,
        dry_run=args.dry_run,
        only=args.only,
        asked_by=dump.who(),
    )


def _capture(args: argparse.Namespace) -> int:
    from .formats import json_incidents as json

    outcomes: list[incident_pb2.CollectorOutcome] = []
    record: incident_pb2.IncidentRecord | None = None
    written: Path | None = None
    with client.capturing(args) as (query, incidents):
        request = _request(args, client.service_name(args, query))
        with output.Progress() as progress:
            for response in incidents.CaptureIncident(request, timeout=args.timeout):
                if response.HasField("record"):
                    record = response.record
                else:
                    outcomes.append(response.outcome)
                    progress.show(f"{response.outcome.name} {response.outcome.state}", len(outcomes))
        if record is None:
            raise CliError("the collector said nothing about the capture; `glassbottom capture --list` may show more.")
        if record.state != "failed" and not args.keep_there:
            written = _fetch(incidents, record.id, args.file or Path(f"{record.id}.tar.gz"), args.timeout)
    outcomes.sort(key=lambda one: one.name)
    output.answer(args, lambda: report(record, outcomes, written), lambda: json.captured(record, outcomes, written))
    return {"stored": Exit.OK, "partial": Exit.FINDING}.get(record.state, Exit.ERROR)


def _plan(args: argparse.Namespace) -> int:
    from .formats import json_incidents as json

    with client.capturing(args) as (query, incidents):
        request = _request(args, client.service_name(args, query))
        plans = [response.planned for response in incidents.CaptureIncident(request, timeout=args.timeout)]
    output.answer(args, lambda: _plan_report(plans), lambda: json.planned(plans))
    return Exit.OK


def _list(args: argparse.Namespace) -> int:
    from glassbottom.wire.v1.incident_pb2 import ListIncidentsRequest

    from .formats import json_incidents as json

    with client.capturing(args) as (_, incidents):
        request = ListIncidentsRequest(service=args.service, limit=LISTED)
        records = incidents.ListIncidents(request, timeout=args.timeout).records
    output.answer(args, lambda: _table(records), lambda: json.incidents(records))
    return Exit.OK


def _fetch_again(args: argparse.Namespace) -> int:
    from .formats import json_incidents as json

    with client.capturing(args) as (_, incidents):
        record, written = _read(incidents, args.issue, args.file, args.timeout)
    output.answer(args, lambda: report(record, (), written), lambda: json.captured(record, (), written))
    return Exit.OK


def _fetch(incidents: IncidentServiceStub, identity: str, path: Path, timeout_s: float) -> Path:
    return _read(incidents, identity, path, timeout_s)[1]


def _read(
    incidents: IncidentServiceStub, name: str, path: Path | None, timeout_s: float
) -> tuple[incident_pb2.IncidentRecord, Path]:
    """Writes an archive, private, and only when it is whole and what was kept. Raises CliError."""
    import hashlib

    from glassbottom.wire.v1.incident_pb2 import IncidentRecord, ReadIncidentRequest

    record = IncidentRecord()
    digest = hashlib.sha256()
    data = bytearray()
    for piece in incidents.ReadIncident(ReadIncidentRequest(id=name), timeout=timeout_s):
        if piece.HasField("record"):
            record = piece.record
        digest.update(piece.data)
        data += piece.data
    if digest.hexdigest() != record.sha256:
        raise CliError("the archive that arrived is not the one that was kept; try --fetch again.")
    target = path or Path(f"{record.id}.tar.gz")
    beside = target.with_name(f"{target.name}.part")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        beside.replace(target)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise CliError(f"cannot write {target}: {error.strerror}.") from None
    return record, target


def report(
    record: incident_pb2.IncidentRecord,
    outcomes: Sequence[incident_pb2.CollectorOutcome] = (),
    written: Path | None = None,
) -> Report:
    """One incident for a person."""
    found = Report()
    what = f", {size(record.file_bytes)}" if record.file_bytes else ""
    found.line(f"{record.issue} of {record.service}: {record.state}{what} ({record.id})", STYLES.get(record.state, ""))
    if record.reason:
        found.line(record.reason, hanging=2)
    if outcomes:
        columns = [
            Column("COLLECTOR"),
            Column("STATE"),
            Column("TOOK", right=True),
            Column("FILES", right=True),
            Column("SIZE", right=True),
            Column("WHAT TO KNOW", flexible=True),
        ]
        found.table(columns, [_outcome(one) for one in outcomes])
    if written is not None:
        found.line(f"written to {written}; `glassbottom archive inspect {written}` shows what is in it.")
    elif record.file_bytes:
        found.line(f"`glassbottom capture {record.id} --fetch` writes it here.")
    return found


def _outcome(one: incident_pb2.CollectorOutcome) -> list[Cell | str]:
    told = [one.sentence, *one.notes]
    return [
        one.name,
        Cell(one.state, STYLES.get(one.state, "")),
        elapsed(one.ms / 1000),
        str(one.files),
        size(one.bytes) if one.bytes else "",
        " ".join(filter(None, told)),
    ]


def _plan_report(plans: Sequence[incident_pb2.PlannedCollector]) -> Report:
    found = Report()
    found.line("Nothing was read. A capture would read:")
    for plan in plans:
        found.line("")
        found.line(plan.name, "bold")
        for read in plan.reads:
            where = f" on {read.role} {read.node}" if read.node else ""
            found.line(f"  {read.cost}, at most {read.timeout_s:g} s{where}")
            for line in read.what.strip().splitlines():
                found.line(f"    {line}")
    return found


def _table(records: Sequence[incident_pb2.IncidentRecord]) -> Report:
    found = Report()
    if not records:
        found.line("No incident was captured yet; `glassbottom capture ISSUE` does.")
        return found
    columns = [
        Column("INCIDENT"),
        Column("ISSUE", flexible=True),
        Column("SERVICE"),
        Column("STATE"),
        Column("SIZE", right=True),
        Column("AT", beneath="ISSUE"),
        Column("BY", beneath="ISSUE", label="by "),
        Column("REASON", beneath="ISSUE"),
    ]
    rows: list[list[Cell | str]] = [
        [
            record.id,
            record.issue,
            record.service,
            Cell(record.state, STYLES.get(record.state, "")),
            "deleted" if record.deleted_at_ns else size(record.file_bytes) if record.file_bytes else "",
            moment(record.at_ns),
            record.asked_by,
            record.reason,
        ]
        for record in records
    ]
    found.table(columns, rows)
    return found
