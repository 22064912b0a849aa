"""What is said of an operation that was repeated: whether it leaks, the evidence, and what would change it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

REACHABLE = "reachable growth"
CYCLES = "cyclic garbage"
NATIVE = "native"


class Outcome(Enum):
    """LEAK: grows with every call. HEALTHY: does not. UNDECIDED: the evidence says what could still explain it."""

    LEAK = "leak"
    HEALTHY = "healthy"
    UNDECIDED = "undecided"


class Undecided(UserWarning):
    """An operation grew, but what it keeps may have a bound that was not reached, or be let go of later."""


@dataclass(frozen=True)
class Site:
    """A place that allocated what stays. place: "FILE:LINE function". called_from: the same, of the nearest code of
    the application where the place is not. types: (name, bytes per call), largest first. holder: who keeps it.
    lines: (file, line) of both."""

    place: str
    bytes_per_call: float
    blocks_per_call: float
    called_from: str = ""
    types: tuple[tuple[str, float], ...] = ()
    holder: str = ""
    lines: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True)
class Verdict:
    """low, high: 95 % interval of bytes_per_call. kind: "" unless something stays. calls, seconds: that it took."""

    outcome: Outcome
    bytes_per_call: float
    low: float
    high: float
    limit: float
    calls: int
    seconds: float
    kind: str = ""
    sites: tuple[Site, ...] = ()
    evidence: tuple[str, ...] = ()
    would_change: str = ""

    def report(self, name: str = "the operation") -> str:
        """All of it, as a person reads it."""
        lines = [self._headline(name)]
        lines += [f"  evidence  {sentence}" for sentence in self.evidence]
        for site in self.sites:
            price = f"{readable_bytes(site.bytes_per_call)} in {site.blocks_per_call:.3g} blocks per call"
            lines.append(f"  site      {site.place}: {price}")
            if site.called_from:
                lines.append(f"    from    {site.called_from}")
            if site.types:
                lines.append("    types   " + ", ".join(f"{name} {readable_bytes(size)}" for name, size in site.types))
            if site.holder:
                lines.append(f"    held by {site.holder}")
        if self.would_change:
            lines.append(f"  would change it: {self.would_change}")
        return "\n".join(lines)

    def _headline(self, name: str) -> str:
        took = f"{self.calls} calls in {self.seconds:.1f} s"
        if self.outcome is Outcome.HEALTHY:
            return f"{name} does not leak: {took}"
        says = "leaks" if self.outcome is Outcome.LEAK else "may leak"
        size, low, high, limit = map(readable_bytes, (self.bytes_per_call, self.low, self.high, self.limit))
        return f"{name} {says} {size} per call ({low} to {high}; {limit} are allowed), {self.kind}: {took}"


def readable_bytes(size: float) -> str:
    """As a person reads it."""
    if abs(size) >= 10_485_760:
        return f"{size / 1_048_576:.1f} MiB"
    if abs(size) >= 10_240:
        return f"{size / 1024:.1f} KiB"
    return f"{size:.0f} B" if abs(size) >= 10 or size == int(size) else f"{size:.1f} B"
