"""gRPC servicer of Control: passes an operator's wish on to connected agents, which decide themselves.

The reader is asked only to say what exists when nothing fits.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable

import grpc
from glassbottom.wire.v1 import control_pb2, control_pb2_grpc, ingest_pb2

from ..errors import StorageError
from ..model.live import CommandAnswer, LiveInstances
from ..model.process import Span
from ..storage import Reader
from .captures import CaptureAnswers
from .errors import answering, streaming

TIMEOUT_S_DEFAULT = 30.0
TIMEOUT_S_MAX = 300.0
ANSWER_MARGIN_S = 0.5
"""The agents' deadline comes before the caller's, so that the caller still hears who did not answer."""
KNOWN_WITHIN_S = 3600
LABEL_CHARS_MAX = 100
"""Of a snapshot's name, as heap.proto promises."""

_OUTCOMES = {
    "done": ingest_pb2.COMMAND_OUTCOME_DONE,
    "refused": ingest_pb2.COMMAND_OUTCOME_REFUSED,
    "failed": ingest_pb2.COMMAND_OUTCOME_FAILED,
}


class Control(control_pb2_grpc.ControlServiceServicer):
    """Commands for agents. NOT_FOUND lists what there is; everything else is an outcome per process."""

    def __init__(
        self,
        live: LiveInstances,
        reader: Reader,
        captures: CaptureAnswers,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._live = live
        self._reader = reader
        self._captures = captures
        self._clock_ns = clock_ns

    async def TakeSnapshot(  # noqa: N802 - named in the schema
        self,
        request: control_pb2.TakeSnapshotRequest,
        context: grpc.aio.ServicerContext[control_pb2.TakeSnapshotRequest, control_pb2.TakeSnapshotResponse],
    ) -> control_pb2.TakeSnapshotResponse:
        """Reads the heap of every connected process of a service now; returns when all have answered."""
        if not request.service:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "service is empty; name the service to ask.")
        if len(request.label) > LABEL_CHARS_MAX:
            sentence = f"The label has {len(request.label)} characters; use at most {LABEL_CHARS_MAX}."
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, sentence)
        connected = [
            live.process.instance_id
            for live in self._live.instances()
            if live.connected
            and live.process.service == request.service
            and live.process.instance_id.startswith(request.instance_id)
        ]
        if not connected:
            await context.abort(grpc.StatusCode.NOT_FOUND, await self._missing(request))
        answers = await self._live.take_snapshot(
            connected, _timeout_s(context.time_remaining()), " ".join(request.label.split())
        )
        return control_pb2.TakeSnapshotResponse(outcomes=[_outcome(answer) for answer in answers])

    @streaming
    async def Capture(  # noqa: N802
        self,
        request: control_pb2.CaptureRequest,
        context: grpc.aio.ServicerContext[control_pb2.CaptureRequest, control_pb2.CaptureResponse],
    ) -> AsyncIterator[control_pb2.CaptureResponse]:
        """Orders a capture and tells how it goes until it has ended."""
        async for response in self._captures.capture(request, context.peer()):
            yield response

    @answering
    async def ListCaptures(  # noqa: N802
        self,
        request: control_pb2.ListCapturesRequest,
        _context: grpc.aio.ServicerContext[control_pb2.ListCapturesRequest, control_pb2.ListCapturesResponse],
    ) -> control_pb2.ListCapturesResponse:
        """What was ever asked for, the latest first."""
        return self._captures.list(request)

    @streaming
    async def ReadCapture(  # noqa: N802
        self,
        request: control_pb2.ReadCaptureRequest,
        _context: grpc.aio.ServicerContext[control_pb2.ReadCaptureRequest, control_pb2.ReadCaptureResponse],
    ) -> AsyncIterator[control_pb2.ReadCaptureResponse]:
        """The file of a stored capture, in pieces."""
        async for piece in self._captures.read(request):
            yield piece

    @answering
    async def CancelCapture(  # noqa: N802
        self,
        request: control_pb2.CancelCaptureRequest,
        context: grpc.aio.ServicerContext[control_pb2.CancelCaptureRequest, control_pb2.CancelCaptureResponse],
    ) -> control_pb2.CancelCaptureResponse:
        """Calls off a capture that has not ended."""
        return await self._captures.cancel(request, context.peer())

    async def _missing(self, request: control_pb2.TakeSnapshotRequest) -> str:
        connected = [live for live in self._live.instances() if live.connected]
        services = sorted({live.process.service for live in connected})
        if request.service in services:
            instances = [live.process.instance_id for live in connected if live.process.service == request.service]
            return (
                f"No connected process of {request.service} has an instance id that begins with "
                f"{request.instance_id}; connected are {', '.join(sorted(instances)[:20])}."
            )
        if request.service in await self._seen_lately():
            return f"{request.service} has sent data within the last hour, but none of its processes is connected now."
        there_is = f"connected are {', '.join(services[:20])}" if services else "no agent is connected"
        return f"No process of {request.service} is connected; {there_is}."

    async def _seen_lately(self) -> list[str]:
        now_ns = self._clock_ns()
        within = Span(now_ns - KNOWN_WITHIN_S * 10**9, now_ns + 1)
        try:
            return list(await asyncio.to_thread(self._reader.services, within))
        except StorageError:
            return []  # it only decides between two sentences


def _timeout_s(remaining_s: float | None) -> float:
    if remaining_s is None or remaining_s > TIMEOUT_S_MAX:
        return TIMEOUT_S_DEFAULT
    return max(0.1, remaining_s - ANSWER_MARGIN_S)


def _outcome(answer: CommandAnswer) -> control_pb2.InstanceOutcome:
    return control_pb2.InstanceOutcome(
        instance_id=answer.instance_id, outcome=_OUTCOMES[answer.outcome], reason=answer.reason
    )
