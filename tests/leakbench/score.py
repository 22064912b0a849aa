"""What was answered, held against the truth. No I/O; the runner brings the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from tests.leakbench.case import Case, Site

LEAK, GROWING = "leak", "growing"
RATE_TOLERANCE = 0.2
TOP = 3
NO_DUMP = "no heap dump: "
"""Begins the note of a run whose holder cannot be known."""
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
class Whole:
    """What a finding says of all lines of its operation together. share: of its own line; 1 where it is for all.

    bytes_per_operation: None where operations are not counted. largest: the line that grows most, and the application's
    above it.
    """

    name: str
    bytes_per_second: float
    bytes_per_operation: float | None
    share: float
    largest: tuple[Place, ...] = ()

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Whole:
        """From what asdict() made of one."""
        return cls(**{**stored, "largest": tuple(Place(**each) for each in stored["largest"])})


@dataclass(frozen=True)
class Found:
    """One finding. near: the nearest line of the application. path: all frames, innermost first.

    bytes_per_operation: what the finding itself says, by operation; holder, kind: "" where it says nothing.
    whole: None where it says nothing of more than its own line.
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
    whole: Whole | None = None

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Found:
        """From what asdict() made of one."""
        near = Place(**stored["near"]) if stored["near"] else None
        path = tuple(Place(**each) for each in stored["path"])
        lists = {"path": path, "routes": tuple(stored["routes"]), "against": tuple(stored["against"])}
        whole = Whole.of(stored["whole"]) if stored.get("whole") else None
        return cls(**{**stored, **lists, "place": Place(**stored["place"]), "near": near, "whole": whole})

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
class Look:
    """What was called a leak when somebody asked in the middle. at_s: seconds since the process was ready.

    to_ns: end of the window asked about, nanoseconds since the Unix epoch. growing: findings that were only that.
    """

    at_s: float
    to_ns: int
    called: tuple[Found, ...]
    growing: int = 0

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Look:
        """From what asdict() made of one."""
        return cls(**{**stored, "called": tuple(Found.of(each) for each in stored["called"])})

    @classmethod
    def of_findings(cls, at_s: float, to_ns: int, findings: Sequence[Found]) -> Look:
        """What is remembered of an answer: the leaks, without their call paths."""
        called = tuple(replace(each, path=()) for each in findings if each.verdict == LEAK)
        return cls(at_s, to_ns, called, sum(each.verdict == GROWING for each in findings))


@dataclass(frozen=True)
class Run:
    """One variant: what is said at its end, and at each look of which the end is the last.

    service, began_ns, ended_ns: what to ask about. operations, seconds: how many there were in how long.
    """

    variant: str
    findings: tuple[Found, ...]
    operations: int
    seconds: float
    looks: tuple[Look, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    service: str = ""
    began_ns: int = 0
    ended_ns: int = 0

    @classmethod
    def of(cls, stored: dict[str, Any]) -> Run:
        """From what asdict() made of one."""
        lists = {
            "findings": tuple(Found.of(each) for each in stored["findings"]),
            "looks": tuple(Look.of(each) for each in stored["looks"]),
            "notes": tuple(stored["notes"]),
        }
        return cls(**{**stored, **lists})


@dataclass(frozen=True)
class Score:
    """The row of one case. None: does not apply; where a leak is not found or nothing is said, the answer is False.

    found: a right place is called a leak, or where there is none, a finding of the right kind.
    rank: position of the first right answer among all findings, from 1. top: whether that is the first; None where
    there is no right place. ratio: bytes per operation, stated over true; None as well when no leak is found.
    held: the holder that is told. quiet: nothing is called a leak at the end of the mended version or the control.
    false_alarms: what is. wrong_looks: what is called a leak at any look at it, of so many `looks`.
    also_accused: leaks in the healthy part, beside the leaky version.
    first_leak_s: when a right place was first called a leak, and after how many operations.
    """

    case: str
    title: str
    found: bool | None = None
    rank: int | None = None
    top: bool | None = None
    place: str = ""
    ratio: float | None = None
    kind: bool | None = None
    operation: bool | None = None
    holder: bool | None = None
    held: str = ""
    quiet: bool | None = None
    false_alarms: tuple[str, ...] = ()
    wrong_looks: tuple[str, ...] = ()
    looks_wrong: int = 0
    looks: int = 0
    also_accused: tuple[str, ...] = ()
    growing: int = 0
    first_leak_s: float | None = None
    first_leak_operations: int | None = None
    true_bytes: float = 0.0
    why: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def is_right(found: Found, sites: Sequence[Site]) -> bool:
    """Whether a finding names one of these places, as its line or as the application's line above it.

    One that is for all lines of an operation together names the line that grows most of them.
    """
    named = [place for place in (found.place, found.near) if place is not None]
    if found.whole is not None and found.whole.share >= 1:
        named = list(found.whole.largest)
    return any(site.is_at(place.file, place.function, place.line) for site in sites for place in named)


def score(case: Case, leaky: Run | None, fixed: Run | None, true_bytes: float, route: str) -> Score:
    """Of one case. true_bytes: measured, per operation. route: of the operation."""
    row = Score(case=case.id, title=case.title, true_bytes=true_bytes)
    if leaky is not None:
        row = _of_leaky(row, case, leaky, route)
    if fixed is not None:
        row = _of_fixed(row, fixed)
    return row


def _of_leaky(row: Score, case: Case, run: Run, route: str) -> Score:
    right = [
        (position, each)
        for position, each in enumerate(run.findings, start=1)
        if each.verdict == LEAK and _answers(each, case)
    ]
    first_s = next((look.at_s for look in run.looks if any(_answers(each, case) for each in look.called)), None)
    row = replace(
        row,
        found=bool(right),
        top=False if case.sites else None,
        kind=False,
        holder=False if case.holder else None,
        growing=sum(each.verdict == GROWING and _answers(each, case) for each in run.findings),
        also_accused=tuple(
            str(each.near or each.place) for each in run.findings if each.verdict == LEAK and each.is_of_background
        ),
        first_leak_s=first_s,
        first_leak_operations=None if first_s is None else round(first_s * case.per_second),
        why="" if right else run.error or _why_not(case, run, route),
    )
    if not right:
        return row
    rank, first = right[0]
    held = next((each.holder for _, each in right if case.holder and case.holder in each.holder), "")
    return replace(
        row,
        rank=rank,
        top=rank == 1 if case.sites else None,
        place=str(first.place),
        ratio=_ratio(case, run, row.true_bytes, route),
        kind=first.kind in case.kinds,
        operation=first.main_route == route if first.main_route else None,
        holder=bool(held) if case.holder else None,
        held=held or next((each.holder for _, each in right if each.holder), ""),
    )


def _of_fixed(row: Score, run: Run) -> Score:
    alarms = tuple(str(each.near or each.place) for each in run.findings if each.verdict == LEAK)
    wrong = [look for look in run.looks if look.called]
    return replace(
        row,
        quiet=not alarms and not run.error,
        false_alarms=alarms,
        wrong_looks=tuple(
            f"{look.at_s:.0f} s: {', '.join(f'{each.near or each.place} ({each.kind})' for each in look.called[:4])}"
            for look in wrong
        ),
        looks_wrong=len(wrong),
        looks=len(run.looks),
        why=f"{row.why} fixed: {run.error}".strip() if run.error else row.why,
    )


def _answers(found: Found, case: Case) -> bool:
    if case.sites and is_right(found, case.sites):
        return True
    # Where no line of Python allocates what stays, the kind is the answer.
    return not case.sites and found.kind in case.kinds


def _ratio(case: Case, run: Run, true_bytes: float, route: str) -> float | None:
    """Stated bytes per operation over the true ones.

    Where a right answer states what its operation keeps over all its lines, that is what is stated; the first such
    counts. Otherwise everything called a leak that belongs to the case is added up, since a leak may have many lines.
    """
    if not true_bytes or not run.seconds or not run.operations:
        return None
    per_second = run.operations / run.seconds
    right = [each for each in run.findings if each.verdict == LEAK and _answers(each, case)]
    whole = next((each.whole for each in right if each.whole is not None), None)
    if whole is not None:
        stated = whole.bytes_per_operation
        return (whole.bytes_per_second / per_second if stated is None else stated) / true_bytes
    ours = [
        each
        for each in run.findings
        if each.verdict == LEAK and ((case.sites and each.is_of_case(route)) or _answers(each, case))
    ]
    by_line = [sum(size for name, size in each.bytes_per_operation.items() if name == route) for each in ours]
    if any(by_line):
        return sum(by_line) / true_bytes
    return sum(each.bytes_per_second for each in ours) / per_second / true_bytes


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
