"""A whole heap profile, put together from the pieces of the Profile call; what pprof, folded and the rest are made of.

Values are estimates and therefore real numbers. Formats that want whole ones round so that the total stays the
rounded total: see `whole`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glassbottom.wire.v1.query_pb2 import ProfileResponse, Totals

from .text import safe


class Code(NamedTuple):
    """A line of a function; text is safe to show."""

    function: str
    file: str
    line: int


class Values(NamedTuple):
    """What a call path holds and has allocated; `before_` is 0 unless the profile is a difference."""

    live_bytes: float = 0.0
    live_objects: float = 0.0
    alloc_bytes: float = 0.0
    alloc_objects: float = 0.0
    before_live_bytes: float = 0.0
    before_live_objects: float = 0.0

    def plus(self, other: Values) -> Values:
        """Sum, field by field."""
        return Values(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


@dataclass(frozen=True)
class CallPath:
    """Indexes into Profile.codes, innermost first, and what that path holds."""

    codes: tuple[int, ...]
    values: Values


@dataclass(frozen=True)
class Profile:
    """Every call path of a service with its values, largest live bytes first.

    at_ns is the moment asked for; before_ns too, or 0 when this is no difference.
    """

    service: str
    at_ns: int
    before_ns: int
    interval_bytes: float
    totals: Totals
    before: Totals
    codes: tuple[Code, ...]
    paths: tuple[CallPath, ...]

    @property
    def is_difference(self) -> bool:
        """True when it also has the values of an earlier moment."""
        return self.before_ns > 0


_UNKNOWN = Code("<unknown>", "", 0)


def assemble(
    pieces: Iterable[ProfileResponse],
    service: str,
    at_ns: int,
    before_ns: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Profile:
    """Reads all pieces; equal call paths of several processes become one. `progress` hears how many there are."""
    header: ProfileResponse | None = None
    codes: list[Code] = [_UNKNOWN]
    index_of_id: dict[int, int] = {}
    merged: dict[tuple[int, ...], Values] = {}
    for piece in pieces:
        header = piece if header is None else header
        for frame in piece.frames:
            index_of_id[frame.id] = len(codes)
            codes.append(Code(safe(frame.function), safe(frame.file), frame.line))
        for stack in piece.stacks:
            path = tuple(index_of_id.get(frame, 0) for frame in stack.frames) or (0,)
            values = Values(
                stack.live_bytes,
                stack.live_objects,
                stack.alloc_bytes,
                stack.alloc_objects,
                stack.before_live_bytes,
                stack.before_live_objects,
            )
            merged[path] = merged[path].plus(values) if path in merged else values
        if progress is not None:
            progress(len(merged))
    header = header or ProfileResponse()
    largest_first = sorted(
        merged.items(), key=lambda item: (-max(item[1].live_bytes, item[1].before_live_bytes), item[0])
    )
    return Profile(
        service=safe(service),
        at_ns=at_ns,
        before_ns=before_ns,
        interval_bytes=header.interval_bytes,
        totals=header.totals,
        before=header.before,
        codes=tuple(codes),
        paths=tuple(CallPath(path, values) for path, values in largest_first),
    )


def whole(values: Sequence[float], stated_total: float | None = None) -> list[int]:
    """Whole numbers for estimates, each less than 1 away from its estimate, with the rounded total as their sum.

    Largest remainder method. `stated_total` is the total as another answer reports it, summed in another order; it
    wins when it differs by no more than that explains, so that `top -o json` and `top -o pprof` agree to the byte.
    """
    total = math.fsum(values)
    if stated_total is not None and abs(stated_total - total) <= max(1e-9 * abs(total), 1e-6):
        total = stated_total
    floors = [math.floor(value) for value in values]
    missing = round(total) - sum(floors)
    by_remainder = sorted(range(len(values)), key=lambda at: (floors[at] - values[at], at))
    for at in by_remainder[:missing]:
        floors[at] += 1
    return floors
