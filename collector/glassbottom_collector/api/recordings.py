"""gRPC servicer of Recordings: files of memray and py-spy as call paths, one after another in a thread of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from glassbottom.wire.v1 import recordings_pb2, recordings_pb2_grpc

from ..errors import BadRequest
from ..model.recording import UNITS, RecordedPath, Recording
from ..recordings import read
from .errors import answering
from .heap_views import frame_message
from .heapdump_cache import StoredCaptures
from .selection import limit_of

LIMIT = 30
OWN = "glassbottom-"
"""How the names of the agent's threads begin."""


class Recordings(recordings_pb2_grpc.RecordingServiceServicer):
    """Errors: see query.proto."""

    def __init__(self, captures: StoredCaptures, read_file: Callable[[Path], Recording] = read) -> None:
        self._captures = captures
        self._read = read_file
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="glassbottom-recordings")

    @answering
    async def ReadRecording(self, request: Any, context: Any) -> recordings_pb2.ReadRecordingResponse:  # noqa: N802, ARG002
        """One capture as call paths with values."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self.answer, request)

    def answer(self, request: recordings_pb2.ReadRecordingRequest) -> recordings_pb2.ReadRecordingResponse:
        """The same, in the thread of whoever calls. Raises NotFound and BadRequest."""
        row = self._captures.get(request.capture_id)
        if row.kind == "state":
            raise BadRequest(
                f"Capture {row.id[:8]} is the state of a process, a JSON document to be read as it is; "
                f"`glassbottom captures get {row.id[:8]} --output state.json` writes it to a file."
            )
        if row.kind not in UNITS:
            raise BadRequest(
                f"Capture {row.id[:8]} is a {row.kind}; `glassbottom heap` reads heap dumps, and `glassbottom captures "
                "show` has the facts of the others."
            )
        answer = response(self._read(self._captures.path_of(row.id)), request)
        answer.capture_id = row.id
        return answer


def response(
    recording: Recording, request: recordings_pb2.ReadRecordingRequest
) -> recordings_pb2.ReadRecordingResponse:
    """A recording as a message. Raises BadRequest for a limit that is too high."""
    limit = limit_of(request.limit, LIMIT)
    paths = [path for path in recording.paths if request.own_threads or not path.thread.startswith(OWN)]
    left_out = sum(path.value for path in recording.paths) - sum(path.value for path in paths)
    return recordings_pb2.ReadRecordingResponse(
        kind=recording.kind,
        unit=UNITS[recording.kind],
        paths=[_path(path) for path in paths[:limit]],
        total=recording.total - left_out,
        peak_bytes=recording.peak_bytes,
        more=max(0, len(paths) - limit),
    )


def _path(path: RecordedPath) -> recordings_pb2.RecordedPath:
    return recordings_pb2.RecordedPath(
        frames=[frame_message(frame) for frame in path.frames],
        thread=path.thread,
        note=path.note,
        value=path.value,
        count=path.count,
        peak_bytes=path.peak_bytes,
    )
