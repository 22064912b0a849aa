"""Deep captures as the command line asks for them: order one, follow it, list what was asked for, read a file.

Every attempt is recorded, also one that reaches no agent; only what makes no sense at all is not.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

from glassbottom.wire.v1 import control_pb2, ingest_pb2

from ..captures import CaptureStore
from ..captures.store import PIECE_BYTES_MAX
from ..errors import BadRequest, CollectorError, NotFound
from ..model.capture import KINDS, ORDERED, CaptureOrders, CaptureRow
from ..model.live import LiveInstances

LEASE_S_DEFAULT = 900.0
LIST_DEFAULT = 100
TEXT_CHARACTERS_MAX = 200
OPTIONS_MAX = 16
INSTANCES_NAMED_MAX = 20
HUNG_UP = "It was called off: whoever asked hung up."


class CaptureAnswers:
    """What ControlService says about captures. Raises errors of ..errors; the servicer turns them into statuses."""

    def __init__(
        self,
        live: LiveInstances,
        orders: CaptureOrders,
        store: CaptureStore,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._live = live
        self._orders = orders
        self._store = store
        self._clock_ns = clock_ns
        self._cancelling: set[asyncio.Task[None]] = set()

    async def capture(
        self, request: control_pb2.CaptureRequest, peer: str
    ) -> AsyncIterator[control_pb2.CaptureResponse]:
        """The record now and whenever it has changed, until it has ended or the caller hangs up."""
        row = self._row_of(request, peer)
        try:
            row = replace(row, instance_id=self._instance(request.service, request.instance_id))
        except (NotFound, BadRequest) as error:
            row = await self._orders.refuse(row, str(error))
        else:
            row = await self._orders.order(row)
        watched = self._orders.watch(row.id)
        try:
            async for row in watched:
                yield control_pb2.CaptureResponse(record=record_of(row))
        finally:
            if not row.ended and not request.detached:
                # The call is over, and with it what may be awaited here.
                cancelling = asyncio.ensure_future(self._call_off(row.id))
                self._cancelling.add(cancelling)
                cancelling.add_done_callback(self._cancelling.discard)

    def list(self, request: control_pb2.ListCapturesRequest) -> control_pb2.ListCapturesResponse:
        """What was asked for, the latest first."""
        rows = self._store.list(request.service, request.limit or LIST_DEFAULT)
        return control_pb2.ListCapturesResponse(records=map(record_of, rows))

    async def read(self, request: control_pb2.ReadCaptureRequest) -> AsyncIterator[control_pb2.ReadCaptureResponse]:
        """The file in pieces, the record with the first."""
        row = self._store.get(request.id)
        path = self._store.path_of(row.id)
        if request.offset > row.file_bytes:
            raise BadRequest(f"The file of capture {row.id} has {row.file_bytes} bytes; begin at or before that.")
        yield control_pb2.ReadCaptureResponse(record=record_of(row))
        offset = request.offset
        while offset < row.file_bytes:
            data = await asyncio.to_thread(_read, path, offset)
            if not data:
                raise NotFound(f"The file of capture {row.id} was deleted while it was being read.")
            yield control_pb2.ReadCaptureResponse(data=data)
            offset += len(data)

    async def cancel(self, request: control_pb2.CancelCaptureRequest, peer: str) -> control_pb2.CancelCaptureResponse:
        """Calls off a capture that has not ended."""
        row = self._store.get(request.id)
        if row.ended:
            raise BadRequest(f"Capture {row.id} has ended already: it is {row.state}.")
        row = await self._orders.cancel(row.id, f"It was called off by {_asked_by(request.asked_by, peer)}.")
        return control_pb2.CancelCaptureResponse(record=record_of(row))

    async def _call_off(self, capture_id: str) -> None:
        with contextlib.suppress(CollectorError):  # its lease ends it all the same
            await self._orders.cancel(capture_id, HUNG_UP)

    def _row_of(self, request: control_pb2.CaptureRequest, peer: str) -> CaptureRow:
        """Raises BadRequest for what no agent could make sense of."""
        kind = _kind_of(request)
        if kind not in KINDS:
            raise BadRequest(f"Command {request.kind} is no capture; there are: {', '.join(KINDS)}.")
        if not request.service:
            raise BadRequest("service is empty; name the service to capture from.")
        for name, value in (("seconds", request.seconds), ("lease_seconds", request.lease_seconds)):
            if not math.isfinite(value) or value < 0:
                raise BadRequest(f"{name} must be a number of seconds, 0 for the usual.")
        texts = [request.service, request.instance_id, *request.options, *request.options.values()]
        if len(request.options) > OPTIONS_MAX or any(len(text) > TEXT_CHARACTERS_MAX for text in texts):
            raise BadRequest(
                f"At most {OPTIONS_MAX} options are taken, and no text may be longer than {TEXT_CHARACTERS_MAX}."
            )
        limits, now_ns = self._store.limits, self._clock_ns()
        lease_s = min(request.lease_seconds or max(LEASE_S_DEFAULT, 3 * request.seconds), limits.lease_s_max)
        return CaptureRow(
            id=uuid.uuid4().hex,
            kind=kind,
            service=request.service,
            instance_id="",
            state=ORDERED,
            asked_at_ns=now_ns,
            asked_by=_asked_by(request.asked_by, peer),
            lease_until_ns=now_ns + round(lease_s * 1e9),
            seconds=request.seconds,
            bytes_max=min(request.bytes_max or limits.file_bytes_max, limits.file_bytes_max),
            options=dict(request.options),
        )

    def _instance(self, service: str, prefix: str) -> str:
        """The one connected process that is meant. Raises NotFound, or BadRequest when it could be several."""
        connected = [live.process for live in self._live.instances() if live.connected]
        of_service = [process for process in connected if process.service == service]
        found = [process.instance_id for process in of_service if process.instance_id.startswith(prefix)]
        if len(found) == 1:
            return found[0]
        named = ", ".join(f"{one.instance_id[:8]} (pid {one.pid})" for one in of_service[:INSTANCES_NAMED_MAX])
        if found:
            raise BadRequest(f"{len(found)} processes of {service} are connected; choose one with --instance: {named}.")
        if of_service:
            raise NotFound(
                f"No connected process of {service} has an instance id that begins with {prefix}; there are: {named}."
            )
        services = sorted({process.service for process in connected})
        there_is = f"connected are {', '.join(services[:20])}" if services else "no agent is connected"
        raise NotFound(f"No process of {service} is connected; {there_is}.")


def record_of(row: CaptureRow) -> control_pb2.CaptureRecord:
    """The row in the words of the wire."""
    return control_pb2.CaptureRecord(
        id=row.id,
        kind=ingest_pb2.CommandKind.Value(f"COMMAND_KIND_{row.kind.upper()}"),
        service=row.service,
        instance_id=row.instance_id,
        state=control_pb2.CaptureState.Value(f"CAPTURE_STATE_{row.state.upper()}"),
        reason=row.reason,
        asked_at_ns=row.asked_at_ns,
        asked_by=row.asked_by,
        ended_at_ns=row.ended_at_ns,
        seconds=row.seconds,
        bytes_max=row.bytes_max,
        lease_until_ns=row.lease_until_ns,
        options=row.options,
        file_bytes=row.file_bytes,
        stored_bytes=row.stored_bytes,
        deleted_at_ns=row.deleted_at_ns,
        numbers=row.numbers,
        texts=row.texts,
    )


def _kind_of(request: control_pb2.CaptureRequest) -> str:
    """By the name an agent allows it under; empty for a command that is not known here."""
    if request.kind not in ingest_pb2.CommandKind.values():
        return ""
    return ingest_pb2.CommandKind.Name(request.kind).removeprefix("COMMAND_KIND_").lower()


def _asked_by(name: str, peer: str) -> str:
    return f"{name[:TEXT_CHARACTERS_MAX] or 'somebody'} from {peer}"


def _read(path: Path, offset: int) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(offset)
            return file.read(PIECE_BYTES_MAX)
    except OSError:
        return b""
