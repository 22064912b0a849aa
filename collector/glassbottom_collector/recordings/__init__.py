"""Reads the files of memray and py-spy, which other people's processes have sent: nothing in them is believed.

memray's are read by memray itself, in a process of its own with a bound on its memory and time (memray_file.py): what
is wrong in such a file ends that process and not the collector.
"""

from __future__ import annotations

from pathlib import Path

from ..errors import BadRequest
from ..model.recording import Recording
from . import memray_file, pyspy_files

FILE_BYTES_MAX = 256 << 20
MAGICS = (b"memray", b"\x04\x22\x4d\x18")
"""As it is, and as memray compresses it (an LZ4 frame)."""
STATE = '{"state":'
"""How what `glassbottom dump state` writes begins."""


def read(path: Path) -> Recording:
    """What a file holds; its beginning says what it is. Raises BadRequest when it is none of these, or damaged."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            head = file.read(16)
            if head.startswith(MAGICS):
                return memray_file.read(path)
            if size > FILE_BYTES_MAX:
                raise BadRequest(
                    f"{path.name} has {size >> 20} MiB; a recording of at most {FILE_BYTES_MAX >> 20} is read."
                )
            text = (head + file.read()).decode("utf-8", "replace")
    except OSError as error:
        raise BadRequest(f"{path} cannot be read: {error.strerror}.") from None
    if text.startswith(STATE):
        raise BadRequest(f"{path.name} is the state of a process, a JSON document to be read as it is.")
    return pyspy_files.stacks(text) if text.lstrip().startswith("[") else pyspy_files.folded(text)
