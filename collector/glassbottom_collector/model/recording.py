"""What memray or py-spy recorded, as call paths with values."""

from __future__ import annotations

from dataclasses import dataclass

from .code import Frame

MEMRAY, STACKS, CPU = "dump_memray", "dump_stacks", "dump_cpu"
UNITS = {MEMRAY: "bytes", STACKS: "threads", CPU: "samples"}


@dataclass(frozen=True)
class RecordedPath:
    """One call path, innermost frame first.

    thread: its name, empty where threads are not told apart. note: the function that allocated, or what the thread did.
    value: in the unit of the recording. count, peak_bytes: of memray, 0 otherwise.
    """

    frames: tuple[Frame, ...]
    thread: str
    note: str
    value: float
    count: float = 0.0
    peak_bytes: float = 0.0


@dataclass(frozen=True)
class Recording:
    """One file. kind: a key of UNITS. paths: largest value first. total: of all values. peak_bytes: of memray."""

    kind: str
    paths: tuple[RecordedPath, ...]
    total: float
    peak_bytes: float = 0.0
