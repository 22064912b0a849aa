"""One thing that is wrong, where, and what that rests on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .code import Frame
from .leak import Evidence
from .process import Span


class Severity(IntEnum):
    """Numbers are the wire's."""

    NOTICE = 1
    WARNING = 2
    CRITICAL = 3


@dataclass(frozen=True)
class Finding:
    """kind: see docs/findings.md. frame: the place to look at, None when unknown. path: innermost first, may be empty.
    value: in the unit of the kind, mostly seconds. seen: first and last time, half-open."""

    kind: str
    severity: Severity
    sentence: str
    frame: Frame | None
    path: tuple[Frame, ...]
    count: int
    value: float
    seen: Span
    instance_ids: tuple[str, ...]
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True)
class FindingReport:
    """Everything that looks wrong, worst first. covered: what data there really was, None without. notes: why there
    is no better answer, one sentence each."""

    findings: tuple[Finding, ...]
    covered: Span | None
    notes: tuple[str, ...]
