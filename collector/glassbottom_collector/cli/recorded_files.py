"""Recordings read from files here, by the same code that answers in a collector; imported only for that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from .exits import CliError

if TYPE_CHECKING:
    from glassbottom.wire.v1 import recordings_pb2


def read(name: str, request: recordings_pb2.ReadRecordingRequest) -> recordings_pb2.ReadRecordingResponse:
    """What a collector would answer about that file. Raises CliError."""
    from ..api.recordings import response
    from ..errors import CollectorError
    from ..recordings import read as read_file

    try:
        return response(read_file(Path(name)), request)
    except CollectorError as error:
        raise CliError(str(error)) from None
