"""What was answered, held against the truth. No I/O; the runner brings the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tests.leakbench.case import Case, Site

LEAK, GROWING = "leak", "growing"
RATE_TOLERANCE = 0.2
TOP = 3
CASES = "tests/leakbench/cases/"
BACKGROUND = "tests/leakbench/background.py"


@dataclass(frozen=True)
class Place:
    """A frame."""

    file: str
    function: str
    line: int

    def __str__(self) -> str:
        return f"{'/'.join(self.file.split('/')[-2:])}:{self.line} {self.function}"


@dataclass(frozen=True)
class Found:
    """One finding. near: the nearest line of the application. path: all frames, innermost first.

    bytes_per_operation: what the finding itself says, by operation; holder, kind: "" where it says nothing.
    """

    verdict: str
    place: Place
    near: Place | None = None
    path: tuple[Place, ...] = ()
    bytes_per_second: float = 0.0
    kind: str = ""
    holder: str = ""
    routes: tuple[str, ...] = ()
    bytes_per_operation: dict[str, float] = field(default_factory=dict)
    against: tuple[str, ...] = ()

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Found:
        """From what asdict() made of one."""
        near = Place(**stored["near"]) if stored["near"] else None
        path = tuple(Place(**each) for each in stored["path"])
        return cls(**{**stored, "place": Place(**stored["place"]), "near": near, "path": path})

    @property
    def is_of_background(self) -> bool:
        """True for what the healthy part does."""
        return any(place.file.endswith(BACKGROUND) for place in (self.place, self.near) if place is not None)

    @property
    def main_route(self) -> str:
        """The operation it is said to grow with most; "" when nothing is said."""
        if self.bytes_per_operation:
            return max(self.bytes_per_operation, key=lambda name: self.bytes_per_operation[name])
        return self.routes[0] if self.routes else ""

    def is_of_case(self, route: str) -> bool:
        """True where the case's module is anywhere on the way, or it grows with the case's operation."""
        places = [self.place, *self.path, *([self.near] if self.near else [])]
        return any(CASES in place.file for place in places) or (
            bool(self.place.file) and self.main_route == route and not self.is_of_background
        )


@dataclass(frozen=True)
class Run:
    """One variant, at its end. first_leak_s: when a right place was first called a leak; None: never.

    ever: times anything was called a leak while it ran, of so many looks.
    """

    variant: str
    findings: tuple[Found, ...]
    operations: int
    seconds: float
    first_leak_s: float | None
    ever: int
    looks: int
    notes: tuple[str, ...] = ()
    error: str = ""

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Run:
        """From what asdict() made of one."""
        return cls(**{**stored, "findings": tuple(Found.of(each) for each in stored["findings"])})


@dataclass(frozen=True)
class Score:
    """The row of one case. None: does not apply, or nothing was said about it.

    found: a right place is called a leak, or where there is none, a finding of the right kind.
    rank: position of the first right answer among all findings, from 1. ratio: bytes per operation, stated over true.
    false_alarms: leaks called in the fixed version or the control. also_accused: in the background.
    """

    case: str
    title: str
    found: bool | None
    rank: int | None
    place: str
    ratio: float | None
    kind: bool | None
    operation: bool | None
    holder: bool | None
    quiet: bool | None
    false_alarms: tuple[str, ...]
    also_accused: tuple[str, ...]
    growing: int
    first_leak_s: float | None
    true_bytes: float
    why: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def is_right(found: Found, sites: Sequence[Site]) -> bool:
    """Whether a finding names one of these places, as its line or as the application's line above it."""
    named = [place for place in (found.place, found.near) if place is not None]
    return any(site.is_at(place.file, place.function, place.line) for site in sites for place in named)


def score(case: Case, leaky: Run | None, fixed: Run | None, true_bytes: float, route: str) -> Score:
    """Of one case. true_bytes: measured, per operation. route: of the operation."""
    rank = ratio = kind = operation = holder = found = None
    place = why = ""
    growing = 0
    if leaky is not None:
        right = [
            (position, each)
            for position, each in enumerate(leaky.findings, start=1)
            if each.verdict == LEAK and _answers(each, case)
        ]
        found = bool(right)
        growing = sum(each.verdict == GROWING and _answers(each, case) for each in leaky.findings)
        if right:
            rank, first = right[0]
            place = str(first.place)
            ratio = _ratio(case, leaky, true_bytes, route)
            kind = first.kind in case.kinds if first.kind else None
            operation = first.main_route == route if first.main_route else None
            held = [each.holder for _, each in right if each.holder]
            holder = any(case.holder in each for each in held) if case.holder and held else None
        else:
            why = leaky.error or _why_not(case, leaky, route)
    quiet = None
    alarms: tuple[str, ...] = ()
    if fixed is not None:
        alarms = tuple(str(each.near or each.place) for each in fixed.findings if each.verdict == LEAK)
        quiet = not alarms and not fixed.error
        if fixed.error:
            why = f"{why} fixed: {fixed.error}".strip()
    accused = tuple(
        str(each.near or each.place)
        for each in (leaky.findings if leaky is not None else ())
        if each.verdict == LEAK and each.is_of_background
    )
    return Score(
        case=case.id,
        title=case.title,
        found=found,
        rank=rank,
        place=place,
        ratio=ratio,
        kind=kind,
        operation=operation,
        holder=holder,
        quiet=quiet,
        false_alarms=alarms,
        also_accused=accused,
        growing=growing,
        first_leak_s=leaky.first_leak_s if leaky is not None else None,
        true_bytes=true_bytes,
        why=why,
    )


def _answers(found: Found, case: Case) -> bool:
    if case.sites and is_right(found, case.sites):
        return True
    # Where no line of Python allocates what stays, the kind is the answer.
    return not case.sites and found.kind in case.kinds


def _ratio(case: Case, run: Run, true_bytes: float, route: str) -> float | None:
    """Of everything called a leak that belongs to the case, since a leak may have many lines."""
    if not true_bytes or not run.seconds:
        return None
    ours = [
        each
        for each in run.findings
        if each.verdict == LEAK and ((case.sites and each.is_of_case(route)) or _answers(each, case))
    ]
    stated = [sum(size for name, size in each.bytes_per_operation.items() if name == route) for each in ours]
    if any(stated):
        return sum(stated) / true_bytes
    rate = sum(each.bytes_per_second for each in ours)
    return rate / (run.operations / run.seconds) / true_bytes


def _why_not(case: Case, run: Run, route: str) -> str:
    """What came nearest, and what stood against it."""
    near = [each for each in run.findings if _answers(each, case)] or [
        each for each in run.findings if each.is_of_case(route)
    ]
    if not near:
        return "nothing of it is listed" + (f" ({run.notes[0]})" if run.notes else "")
    best = max(near, key=lambda each: each.bytes_per_second)
    against = f", against: {', '.join(best.against)}" if best.against else ""
    return f"{best.verdict}: {best.near or best.place}{against}"
