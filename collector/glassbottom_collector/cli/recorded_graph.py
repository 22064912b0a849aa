"""What memray or py-spy recorded as a profile, so that what draws and writes call paths does that here as well.

What a limit left out is a call path of its own, so that no width is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from glassbottom.wire.v1 import query_pb2, recordings_pb2

from .profile import CallPath, Code, Labels, Measure, Profile, Values
from .text import safe

_REST = Code("(not shown)", "", 0)
_UNKNOWN = Code("<unknown>", "", 0)
_TOLD = {
    "dump_memray": "what memray recorded",
    "dump_stacks": "where threads were",
    "dump_cpu": "what py-spy recorded",
}
# By kind, the measure to begin with last. Names are pprof's words where it has one for that.
_MEASURES = {
    "dump_memray": (
        Measure("inuse_objects", "allocations in the window that were not freed in it", "count", "live_objects"),
        Measure("peak_space", "bytes at the peak of the window", "bytes", "alloc_bytes"),
        Measure("inuse_space", "bytes allocated in the window and not freed in it", "bytes", "live_bytes"),
    ),
    "dump_stacks": (Measure("threads", "threads", "count", "samples"),),
    "dump_cpu": (Measure("samples", "samples of threads that were not waiting", "count", "samples"),),
}


@dataclass(frozen=True)
class Recorded(Profile):
    """A profile of one recording; about: its kind."""

    @property
    def title(self) -> str:
        """Of what, in one line."""
        return f"{self.service}: {_TOLD[self.about]}"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What the tool counted."""
        return _MEASURES[self.about]

    @property
    def measures_shown_first(self) -> tuple[Measure, ...]:
        """The same, the one to begin with first."""
        return self.measures[::-1]

    @property
    def period(self) -> tuple[str, str, int]:
        """The file does not say how often was looked."""
        return self.shown.name, self.shown.unit, 0

    @property
    def comments(self) -> tuple[str, ...]:
        """What a reader of the numbers should know."""
        return (f"glassbottom read of {self.title}",)


def profile(response: recordings_pb2.ReadRecordingResponse, name: str) -> Recorded:
    """name: what the recording is called. Threads, where they are told apart, are labels."""
    codes = [_REST, _UNKNOWN]
    index_of: dict[Code, int] = {}
    paths = []
    memory = response.kind == "dump_memray"

    def values(value: float, count: float, peak_bytes: float) -> Values:
        if memory:
            return Values(live_bytes=value, live_objects=count, alloc_bytes=peak_bytes)
        return Values(samples=value)

    for path in response.paths:
        indexes = []
        for frame in path.frames:
            code = Code(safe(frame.function), safe(frame.file), frame.line)
            if code not in index_of:
                index_of[code] = len(codes)
                codes.append(code)
            indexes.append(index_of[code])
        held = values(path.value, path.count, path.peak_bytes)
        paths.append(CallPath(tuple(indexes) or (1,), held, Labels(thread=safe(path.thread))))
    if response.more:
        rest = response.total - sum(path.value for path in response.paths)
        peak = response.peak_bytes - sum(path.peak_bytes for path in response.paths)
        paths.append(CallPath((0,), values(max(rest, 0.0), 0.0, max(peak, 0.0))))
    return Recorded(
        service=safe(name),
        at_ns=0,
        before_ns=0,
        interval_bytes=0.0,
        totals=query_pb2.Totals(),
        before=query_pb2.Totals(),
        codes=tuple(codes),
        paths=tuple(paths),
        shown=_MEASURES[response.kind][-1],
        about=response.kind,
    )
