"""A whole profile, put together from the pieces of the Profile call; what pprof, folded and the rest are made of.

Values are estimates and therefore real numbers. Formats that want whole ones round so that the total stays the
rounded total: see `whole`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from glassbottom.wire.v1.query_pb2 import ProfileResponse, Totals

from .text import moment, safe


class Code(NamedTuple):
    """A line of a function; text is safe to show."""

    function: str
    file: str
    line: int


class Values(NamedTuple):
    """What a call path holds, has allocated, or took; `before_` is 0 unless the profile is a difference."""

    live_bytes: float = 0.0
    live_objects: float = 0.0
    alloc_bytes: float = 0.0
    alloc_objects: float = 0.0
    before_live_bytes: float = 0.0
    before_live_objects: float = 0.0
    cpu_ns: float = 0.0
    wall_ns: float = 0.0
    samples: float = 0.0

    def plus(self, other: Values) -> Values:
        """Sum, field by field."""
        return Values(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))


class Measure(NamedTuple):
    """One of the values of a call path. name: pprof's word, and what a person types. title: in words. unit: "bytes",
    "count" or "nanoseconds"."""

    name: str
    title: str
    unit: str
    field: str


# In the order, and with the names, that Go's own profiles have; viewers look for these words.
ALLOCATED = (
    Measure("alloc_objects", "allocated objects since sampling began", "count", "alloc_objects"),
    Measure("alloc_space", "allocated bytes since sampling began", "bytes", "alloc_bytes"),
)
LIVE = (
    Measure("inuse_objects", "live objects", "count", "live_objects"),
    Measure("inuse_space", "live bytes", "bytes", "live_bytes"),
)
TIME = (
    Measure("samples", "samples", "count", "samples"),
    Measure("cpu", "CPU time", "nanoseconds", "cpu_ns"),
    Measure("wall", "wall time", "nanoseconds", "wall_ns"),
)
LIVE_BYTES = LIVE[1]
# The types of `flame`; what they are sums of decides how a moment or a range is named.
MEASURES = {measure.name: measure for measure in (*TIME[1:], *LIVE, *ALLOCATED)}


class Labels(NamedTuple):
    """Whom a call path ran for; text is safe to show, and empty where nothing is known."""

    route: str = ""
    thread: str = ""
    task: str = ""


UNLABELLED = Labels()
_Key = tuple[tuple[int, ...], Labels]


@dataclass(frozen=True)
class CallPath:
    """Indexes into Profile.codes, innermost first, and what that path holds or took."""

    codes: tuple[int, ...]
    values: Values
    labels: Labels = UNLABELLED


@dataclass(frozen=True)
class Profile:
    """Every call path of a service with its values, largest first.

    at_ns is the moment asked for; before_ns too, or 0 when this is no difference. from_ns is 0 unless this is a sum
    over time. shown is the measure to begin with. about: what it was narrowed to, in words.
    """

    service: str
    at_ns: int
    before_ns: int
    interval_bytes: float
    totals: Totals
    before: Totals
    codes: tuple[Code, ...]
    paths: tuple[CallPath, ...]
    from_ns: int = 0
    shown: Measure = LIVE_BYTES
    about: str = ""

    @property
    def is_difference(self) -> bool:
        """True when it also has the values of an earlier moment."""
        return self.before_ns > 0

    @property
    def is_time(self) -> bool:
        """True when values are times and not memory."""
        return self.shown in TIME

    @property
    def title(self) -> str:
        """Of what, when, in one line."""
        about = f", {self.about}" if self.about else ""
        if self.is_time:
            return f"{self.service}: {self.shown.title} from {moment(self.from_ns)} to {moment(self.at_ns)}{about}"
        if self.is_difference:
            return f"{self.service}: heap from {moment(self.before_ns)} to {moment(self.at_ns)}{about}"
        return f"{self.service}: heap at {moment(self.at_ns)}{about}"

    @property
    def period(self) -> tuple[str, str, int]:
        """Between two samples: pprof's word for what, its unit, how much on average; 0 where that is not known."""
        if not self.is_time:
            return "space", "bytes", round(self.interval_bytes)
        samples = sum(path.values.samples for path in self.paths)
        wall_ns = sum(path.values.wall_ns for path in self.paths)
        return "wall", "nanoseconds", round(wall_ns / samples) if samples else 0

    @property
    def comments(self) -> tuple[str, ...]:
        """What a reader of the numbers should know, a line each."""
        if self.is_time:
            return (
                f"glassbottom profile of {self.title}",
                "Estimates from sampling every thread; each sample stands for the time since the one before.",
            )
        since = f"difference from {moment(self.before_ns)} to" if self.is_difference else "at"
        about = f", {self.about}" if self.about else ""
        of = f"processes: {self.totals.instances}{about}"
        return (
            f"glassbottom heap of {self.service} {since} {moment(self.at_ns)}, {of}",
            "Estimates from Poisson sampling by bytes; totals are those of `glassbottom top -o json`.",
        )

    @property
    def measures(self) -> tuple[Measure, ...]:
        """What each call path has, in pprof's order."""
        # Allocations are counted since the sampler began, so a difference of them says nothing about its two moments.
        return TIME if self.is_time else LIVE if self.is_difference else ALLOCATED + LIVE

    @property
    def measures_shown_first(self) -> tuple[Measure, ...]:
        """The same, for viewers that begin with the first: the one asked for, its neighbours, the rest."""
        usual = TIME[::-1] if self.is_time else LIVE[::-1] if self.is_difference else LIVE[::-1] + ALLOCATED[::-1]
        return tuple(
            sorted(usual, key=lambda measure: (measure != self.shown, (measure in LIVE) != (self.shown in LIVE)))
        )

    def column(self, measure: Measure, before: bool = False) -> list[int]:
        """Whole numbers of that measure, as many as paths; their sum is the rounded total."""
        field = f"before_{measure.field}" if before else measure.field
        stated = getattr(self.before if before else self.totals, measure.field, None)
        return whole([getattr(path.values, field) for path in self.paths], stated)

    def unlabelled(self) -> Profile:
        """The same with equal call paths added up, whomever they ran for."""
        sums: dict[_Key, Values] = {}
        for path in self.paths:
            _add(sums, (path.codes, UNLABELLED), path.values)
        return replace(self, paths=_largest_first(sums))

    def split(self, by: str) -> Profile:
        """The same with "route", "thread" or "task" of each call path as its outermost frame."""
        codes = list(self.codes)
        index: dict[str, int] = {}
        paths = []
        for path in self.paths:
            name = getattr(path.labels, by) or f"no {by}"
            if name not in index:
                index[name] = len(codes)
                codes.append(Code(name, "", 0))
            paths.append(replace(path, codes=(*path.codes, index[name])))
        return replace(self, codes=tuple(codes), paths=tuple(paths))


_UNKNOWN = Code("<unknown>", "", 0)


def assemble(
    pieces: Iterable[ProfileResponse],
    service: str,
    at_ns: int,
    before_ns: int = 0,
    progress: Callable[[int], None] | None = None,
    *,
    from_ns: int = 0,
    shown: Measure = LIVE_BYTES,
    about: str = "",
) -> Profile:
    """Reads all pieces; equal call paths of several processes become one. `progress` hears how many there are."""
    header: ProfileResponse | None = None
    codes: list[Code] = [_UNKNOWN]
    index_of_id: dict[int, int] = {}
    merged: dict[_Key, Values] = {}
    for piece in pieces:
        header = piece if header is None else header
        for frame in piece.frames:
            index_of_id[frame.id] = len(codes)
            codes.append(Code(safe(frame.function), safe(frame.file), frame.line))
        for stack in piece.stacks:
            path = tuple(index_of_id.get(frame, 0) for frame in stack.frames) or (0,)
            key = path, Labels(safe(stack.route), safe(stack.thread), safe(stack.task))
            values = Values(
                stack.live_bytes,
                stack.live_objects,
                stack.alloc_bytes,
                stack.alloc_objects,
                stack.before_live_bytes,
                stack.before_live_objects,
                stack.cpu_s * 1e9,
                stack.wall_s * 1e9,
                stack.samples,
            )
            _add(merged, key, values)
        if progress is not None:
            progress(len(merged))
    header = header or ProfileResponse()
    return Profile(
        service=safe(service),
        at_ns=at_ns,
        before_ns=before_ns,
        interval_bytes=header.interval_bytes,
        totals=header.totals,
        before=header.before,
        codes=tuple(codes),
        paths=_largest_first(merged),
        from_ns=from_ns,
        shown=shown,
        about=safe(about),
    )


def _add(sums: dict[_Key, Values], key: _Key, values: Values) -> None:
    sums[key] = sums[key].plus(values) if key in sums else values


def _largest_first(sums: dict[_Key, Values]) -> tuple[CallPath, ...]:
    """In an order that does not depend on that of the pieces."""

    def order(item: tuple[_Key, Values]) -> tuple[float, _Key]:
        key, values = item
        return -max(values.live_bytes, values.before_live_bytes, values.wall_ns), key

    return tuple(CallPath(path, values, labels) for (path, labels), values in sorted(sums.items(), key=order))


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
