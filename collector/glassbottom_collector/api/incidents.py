"""gRPC servicer of Incidents: capture one and follow it, list, read an archive, examine the sources.

A capture goes on when the caller hangs up: what it has begun to read has been paid for, and the archive is kept here.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from glassbottom.wire.v1 import incident_pb2, incident_pb2_grpc

from ..errors import BadRequest, NotFound
from ..incident.assemble import Outcome, Subject
from ..incident.capture import Incidents
from ..incident.store import PIECE_BYTES_MAX
from ..model.incident import IncidentRow
from .errors import answering, streaming

SECONDS_DEFAULT = 3600.0
SECONDS_MAX = 7 * 86_400.0
LIST_DEFAULT = 100
ONLY_MAX = 50
TEXT_CHARACTERS_MAX = 200


class IncidentCaptures(incident_pb2_grpc.IncidentServiceServicer):
    """Errors: see query.proto."""

    def __init__(self, incidents: Incidents) -> None:
        self._incidents = incidents
        self._tasks: set[asyncio.Task[IncidentRow]] = set()

    @streaming
    async def CaptureIncident(  # noqa: N802 - named in the schema
        self, request: Any, context: Any
    ) -> AsyncIterator[incident_pb2.CaptureIncidentResponse]:
        """An outcome for each collector as it ends, and the record at last; of a dry run only what would be read."""
        subject = self._subject(request, context.peer())
        only = tuple(request.only)
        if request.dry_run:
            planned = await asyncio.to_thread(self._incidents.plan, subject, activity=request.activity, only=only)
            for name, reads in planned:
                yield incident_pb2.CaptureIncidentResponse(
                    planned=incident_pb2.PlannedCollector(
                        name=name,
                        reads=[
                            incident_pb2.PlannedRead(
                                what=one.what, node=one.node, role=one.role, cost=one.cost, timeout_s=one.timeout_s
                            )
                            for one in reads
                        ],
                    )
                )
            return
        loop = asyncio.get_running_loop()
        told: asyncio.Queue[Outcome | None] = asyncio.Queue()

        def tell(outcome: Outcome) -> None:
            loop.call_soon_threadsafe(told.put_nowait, outcome)

        capturing = asyncio.ensure_future(
            asyncio.to_thread(self._incidents.capture, subject, activity=request.activity, only=only, tell=tell)
        )
        self._tasks.add(capturing)
        capturing.add_done_callback(self._tasks.discard)
        capturing.add_done_callback(lambda _done: told.put_nowait(None))
        while (outcome := await told.get()) is not None:
            yield incident_pb2.CaptureIncidentResponse(outcome=_outcome(outcome))
        yield incident_pb2.CaptureIncidentResponse(record=record_of(await asyncio.shield(capturing)))

    @answering
    async def ListIncidents(self, request: Any, context: Any) -> incident_pb2.ListIncidentsResponse:  # noqa: N802, ARG002
        """What was captured, the latest first."""
        rows = self._incidents.store.list(request.service, request.limit or LIST_DEFAULT)
        return incident_pb2.ListIncidentsResponse(records=map(record_of, rows))

    @streaming
    async def ReadIncident(  # noqa: N802
        self,
        request: Any,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[incident_pb2.ReadIncidentResponse]:
        """The archive in pieces, the record with the first."""
        row = self._incidents.store.get(request.id)
        path = self._incidents.store.path_of(row.id)
        yield incident_pb2.ReadIncidentResponse(record=record_of(row))
        offset = 0
        while offset < row.file_bytes:
            data = await asyncio.to_thread(_read, path, offset)
            if not data:
                raise NotFound(f"The archive of incident {row.id} was deleted while it was being read.")
            yield incident_pb2.ReadIncidentResponse(data=data)
            offset += len(data)

    @answering
    async def ExamineSources(self, request: Any, context: Any) -> incident_pb2.ExamineSourcesResponse:  # noqa: N802, ARG002
        """Whether a capture would work."""
        checks = await asyncio.to_thread(self._incidents.examine, request.service)
        return incident_pb2.ExamineSourcesResponse(
            checks=[
                incident_pb2.SourceCheck(
                    source=check.source, name=check.name, state=check.state, sentence=check.sentence
                )
                for check in checks
            ]
        )

    def _subject(self, request: Any, peer: str) -> Subject:
        seconds = request.seconds or SECONDS_DEFAULT
        if not math.isfinite(seconds) or not 0 < seconds <= SECONDS_MAX:
            raise BadRequest(f"seconds must be above 0 and at most {SECONDS_MAX:.0f}, a week; 0 for an hour.")
        if len(request.only) > ONLY_MAX or any(len(name) > TEXT_CHARACTERS_MAX for name in request.only):
            raise BadRequest(f"At most {ONLY_MAX} collectors can be named, of {TEXT_CHARACTERS_MAX} characters each.")
        asked_by = f"{request.asked_by[:TEXT_CHARACTERS_MAX] or 'somebody'} from {peer}"
        return self._incidents.subject(request.issue, request.service, seconds=seconds, asked_by=asked_by)


def record_of(row: IncidentRow) -> incident_pb2.IncidentRecord:
    """The row in the words of the wire."""
    return incident_pb2.IncidentRecord(
        id=row.id,
        issue=row.issue,
        service=row.service,
        at_ns=row.at_ns,
        asked_by=row.asked_by,
        trigger=row.trigger,
        state=row.state,
        reason=row.reason,
        file_bytes=row.file_bytes,
        sha256=row.sha256,
        deleted_at_ns=row.deleted_at_ns,
    )


def _outcome(outcome: Outcome) -> incident_pb2.CollectorOutcome:
    return incident_pb2.CollectorOutcome(
        name=outcome.name,
        state=outcome.state,
        sentence=outcome.sentence,
        ms=outcome.ms,
        files=outcome.files,
        bytes=outcome.bytes,
        notes=outcome.notes,
    )


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES_MAX)
    except OSError:
        return b""
