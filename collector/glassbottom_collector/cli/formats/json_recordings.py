"""The document of `read`; see json.py for what holds for all."""

from __future__ import annotations

from glassbottom.wire.v1 import recordings_pb2

from .json import Document, frame


def recording(response: recordings_pb2.ReadRecordingResponse) -> Document:
    """The document of `glassbottom read`."""
    return {
        "schema": "glassbottom.read/1",
        "capture_id": response.capture_id or None,
        "kind": response.kind,
        "unit": response.unit,
        "total": response.total,
        "peak_bytes": response.peak_bytes or None,
        "paths": [
            {
                "frames": [frame(each) for each in path.frames],
                "thread": path.thread or None,
                "note": path.note or None,
                "value": path.value,
                "count": path.count or None,
                "peak_bytes": path.peak_bytes or None,
            }
            for path in response.paths
        ],
        "more": response.more,
    }
