"""What is claimed about an allocation site, and why."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from .code import Frame
from .process import Span


class Verdict(Enum):
    """LEAK: grows without bound by every test. GROWING: grows, but warm-up, load or a bound not yet reached could
    explain it. STABLE: does not grow. UNCLEAR: the data cannot tell, and the evidence says what is missing."""

    LEAK = "leak"
    GROWING = "growing"
    STABLE = "stable"
    UNCLEAR = "unclear"


@dataclass(frozen=True)
class Evidence:
    """One test or guard with its outcome, as a sentence with numbers."""

    name: str
    supports_leak: bool
    sentence: str


@dataclass(frozen=True)
class Rate:
    """A growth per second with its 95 % confidence interval."""

    per_second: float
    low: float
    high: float


@dataclass(frozen=True)
class RuleHit:
    """A named threshold rule that fired; shown beside the statistics, never instead of them."""

    rule: str
    sentence: str
    instance_id: str
    within: Span
    bytes_per_second: float


@dataclass(frozen=True)
class LeakFinding:
    """The verdict on one allocation site (the line that allocates), over all processes of a service.

    p_value is corrected for the number of sites examined. stacks are the call paths of the site, largest first.
    """

    verdict: Verdict
    frame: Frame
    stacks: tuple[int, ...]
    bytes_rate: Rate
    objects_rate: Rate
    live_bytes: float
    live_bytes_stderr: float
    live_objects: float
    samples: int
    p_value: float
    evidence: tuple[Evidence, ...]
    would_change: str
    instance_ids: tuple[str, ...]
    application_frame: Frame | None


@dataclass(frozen=True)
class LeakReport:
    """Verdicts over a window, worst first."""

    findings: tuple[LeakFinding, ...]
    sites_examined: int
    snapshots: int
    covered: Span | None
    total_bytes_rate: float
    rule_hits: tuple[RuleHit, ...]
    notes: tuple[str, ...]
