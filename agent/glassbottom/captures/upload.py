"""The way of a capture's file to the collector, piece by piece over the session that batches use.

Nothing is read before there is room for it: at most WINDOW_BYTES are under way unacknowledged, so a file of any size
costs that much memory. It goes no faster than BYTES_PER_S, because every byte passes through HTTP/2 in Python, beside
the application. After a lost connection it goes on where the collector says.
"""

from __future__ import annotations

import zlib
from pathlib import Path

from .._errors import CaptureError
from ..wire.v1 import ingest_pb2

CHUNK_BYTES = 256 * 1024
WINDOW_BYTES = 4 * CHUNK_BYTES
BYTES_PER_S = 16 * 1024 * 1024
"""On average; what fits the window goes at once."""


class Upload:
    """One file. In the sender's thread only."""

    def __init__(self, capture_id: str, path: Path, size_bytes: int) -> None:
        self._id = capture_id
        self._path = path
        self.size_bytes = size_bytes
        self._acked_bytes = 0
        self._next: int | None = None
        self._allowed_bytes = 0.0
        self._refilled_at_s: float | None = None

    def rewind(self) -> None:
        """The connection is a new one: nothing is sent before the collector has said what it has."""
        self._next = None
        self._refilled_at_s = None

    def acknowledge(self, offset: int) -> None:
        """So much is durable. Raises CaptureError when that cannot be."""
        if not 0 <= offset <= self.size_bytes:
            raise CaptureError(f"The collector says it has {offset} bytes of a file of {self.size_bytes}.")
        self._acked_bytes = offset
        if self._next is None:
            self._next = offset

    def next_piece(self, now_s: float) -> ingest_pb2.SessionRequest | float:
        """What to send now, or when to ask again on the monotonic clock: never, if the collector must speak first.

        Raises CaptureError when the file cannot be read.
        """
        if self._next is None or self._next >= self.size_bytes:
            return float("inf")
        length = min(CHUNK_BYTES, self.size_bytes - self._next)
        if self._next + length - self._acked_bytes > WINDOW_BYTES:
            return float("inf")
        if self._refilled_at_s is None:
            self._refilled_at_s, self._allowed_bytes = now_s, float(WINDOW_BYTES)
        self._allowed_bytes += max(0.0, now_s - self._refilled_at_s) * BYTES_PER_S
        self._allowed_bytes = min(self._allowed_bytes, float(WINDOW_BYTES))
        self._refilled_at_s = now_s
        if self._allowed_bytes < length:
            return now_s + (length - self._allowed_bytes) / BYTES_PER_S
        data = self._read(self._next, length)
        chunk = ingest_pb2.CaptureChunk(id=self._id, offset=self._next, data=data, crc32=zlib.crc32(data))
        self._next += length
        self._allowed_bytes -= length
        return ingest_pb2.SessionRequest(capture_chunk=chunk)

    def _read(self, offset: int, length: int) -> bytes:
        # Opened each time: a descriptor kept open would be inherited by forked children.
        try:
            with self._path.open("rb", buffering=0) as file:
                file.seek(offset)
                data = file.read(length)
        except OSError as error:
            raise CaptureError(f"The file of the capture cannot be read any more: {error.strerror}.") from error
        if len(data) != length:
            raise CaptureError("The file of the capture became shorter while it was being sent.")
        return data
