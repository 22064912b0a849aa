"""The dominator tree as a profile, so that what draws call paths draws it: a frame is an object, and as wide as what it
retains.

What a limit or a depth left out is a frame of its own below its owner, so that no width is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

from glassbottom.wire.v1 import heapdump_pb2, query_pb2

from .profile import LIVE, CallPath, Code, Measure, Profile, Values
from .text import moment, safe

_REST = Code("(not shown)", "", 0)


@dataclass(frozen=True)
class Retained(Profile):
    """A profile of one dump, whose values are exact."""

    @property
    def title(self) -> str:
        """Of what, when, in one line."""
        return f"{self.service}: what objects retain, heap dump of {moment(self.at_ns)}"

    @property
    def measures(self) -> tuple[Measure, ...]:
        """Bytes only: how many objects a frame that was left out stands for is not known."""
        return LIVE[1:]

    @property
    def measures_shown_first(self) -> tuple[Measure, ...]:
        """The same."""
        return self.measures


@dataclass
class _Open:
    """An object whose subtree is being read; left: bytes it retains that no frame stands for yet."""

    depth: int
    code: int
    left: int


def profile(response: heapdump_pb2.RetainedObjectsResponse) -> Retained:
    """Values are the bytes of each object itself; their sum over a subtree is what its top retains."""
    codes = [_REST]
    paths: list[CallPath] = []
    way: list[_Open] = []

    def add(own: tuple[int, ...], value: int) -> None:
        paths.append(CallPath((*own, *(each.code for each in reversed(way))), Values(live_bytes=float(value))))

    def close(depth: int) -> None:
        while way and way[-1].depth >= depth:
            if way[-1].left > 0:
                add((0,), way[-1].left)
            way.pop()

    for each in response.objects:
        close(each.depth)
        codes.append(Code(safe(each.text), safe(each.type), 0))
        if way:
            way[-1].left -= each.retained
        add((len(codes) - 1,), each.size)
        way.append(_Open(each.depth, len(codes) - 1, each.retained - each.size))
    close(0)
    dump = response.dump
    return Retained(
        service=safe(dump.service or dump.capture_id),
        at_ns=dump.at_ns,
        before_ns=0,
        interval_bytes=0.0,
        totals=query_pb2.Totals(live_bytes=sum(path.values.live_bytes for path in paths)),
        before=query_pb2.Totals(),
        codes=tuple(codes),
        paths=tuple(paths),
    )
