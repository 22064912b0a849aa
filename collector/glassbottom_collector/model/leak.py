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


class LeakKind(Enum):
    """REACHABLE: objects that something still refers to. GARBAGE: objects in cycles that no collection has come to.
    NATIVE: memory outside Python's allocators. FRAGMENTATION: free memory that allocators keep."""

    REACHABLE = "reachable"
    GARBAGE = "garbage"
    NATIVE = "native"
    FRAGMENTATION = "fragmentation"


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
class PerOperation:
    """What stays of each operation of one name, with the 95 % interval of the bytes.

    attributed: from the routes that were served when the memory was allocated; else by regression on how many
    operations ended.
    """

    operation: str
    bytes: float
    bytes_low: float
    bytes_high: float
    objects: float
    operations: int
    attributed: bool


@dataclass(frozen=True)
class LineShare:
    """A line's part, 0 to 1, of what grows together; lines as in a finding."""

    frame: Frame
    application_frame: Frame | None
    share: float


@dataclass(frozen=True)
class Whole:
    """What an operation keeps over all its lines, those that are only growing yet included; where no route was noted,
    everything below a function.

    share: of the finding's own line in it; 1 where the finding is for all lines together. lines: those that grow most,
    of line_count. per_operation: None where operations are not counted.
    """

    name: str
    bytes_rate: Rate
    per_operation: PerOperation | None
    share: float
    line_count: int
    lines: tuple[LineShare, ...]


@dataclass(frozen=True)
class Forecast:
    """When memory will be full if it goes on like this. limit: "container", "address space", "data segment" or "host".

    limit_bytes: 0 when only the room left is known. room_bytes: when memory is at its floor. seconds_10, 50, 90: until
    it is full, by chance of so many in a hundred; infinite when it may never be.
    """

    limit: str
    limit_bytes: float
    room_bytes: float
    bytes_rate: Rate
    seconds_10: float
    seconds_50: float
    seconds_90: float
    instance_ids: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class MemoryPart:
    """A part of resident memory, summed over the processes that tell it; names in docs/leaks.md."""

    name: str
    first_bytes: float
    last_bytes: float
    bytes_per_second: float


@dataclass(frozen=True)
class LeakFinding:
    """The verdict on one allocation site (the line that allocates), over all processes of a service.

    p_value is corrected for the number of sites examined. stacks are the call paths of the site, largest first. Native
    growth and fragmentation have no site: their frame has no file, and no stacks.
    holder, first_seen_ns, first_seen_version: set by who joins findings with dumps and with what was stored before.
    whole: what the operation keeps over all its lines, when they are more than this one.
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
    kind: LeakKind = LeakKind.REACHABLE
    per_operation: tuple[PerOperation, ...] = ()
    holder: str = ""
    first_seen_ns: int = 0
    first_seen_version: str = ""
    whole: Whole | None = None


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
    forecast: Forecast | None = None
    memory: tuple[MemoryPart, ...] = ()
