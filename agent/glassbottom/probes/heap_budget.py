"""How much sampling may cost, as arithmetic: statistics in, rate out. Nothing here reads a clock or sets anything.

Two costs, two knobs. Small blocks cost by being watched: a hook in the way of every allocation, whether sampled or
not; the share of time in which they are watched is the knob. Every sample costs by being taken; the mean interval
between samples is that knob.
"""

from __future__ import annotations

from dataclasses import dataclass

HOOK_NS = 5.0
"""What a hook adds to one small allocation: measured on an optimised build, see docs/benchmarks."""
SMALL_BLOCK_BYTES = 64.0
"""A typical small block, to get from bytes seen to hooks called."""
HOOK_COST_RATIO = 0.003
"""How much of the time hooks on small blocks may take."""
SHARE_MIN = 0.02
SHARE_MAX = 1.0
SHARE_CHANGE_MIN = 1.3
"""Smaller changes of the share are not worth making: each one widens the error bars for a while."""

SAMPLE_COST_RATIO = 0.005
"""How much of the time taking samples may take before the interval is doubled."""
SAMPLE_CALM_RATIO = 0.001
"""Below it the interval may be halved again, after CALM_READINGS looks in a row, some minutes."""
CALM_READINGS = 150
TABLE_CALM_RATIO = 0.25
"""A fuller table does not get a finer interval: it would soon be thinned again."""


@dataclass(frozen=True)
class Counts:
    """Cumulative counts of the native sampler."""

    window_bytes: int
    window_open_ns: int
    sample_ns: int
    elapsed_ns: int


@dataclass(frozen=True)
class Costs:
    """What sampling cost between two Counts, as a share of time. None: too little was seen to tell."""

    hooks_at_full_share: float | None
    samples: float | None


OPEN_NS_MIN = 20_000_000
"""Windows must have been open that long, about one window, before their traffic says anything."""


def costs(before: Counts, after: Counts) -> Costs:
    """What hooks would cost if small blocks were watched all the time, and what taking samples did cost."""
    open_ns = after.window_open_ns - before.window_open_ns
    elapsed_ns = after.elapsed_ns - before.elapsed_ns
    hooks = None
    if open_ns >= OPEN_NS_MIN:
        calls = max(0, after.window_bytes - before.window_bytes) / SMALL_BLOCK_BYTES
        hooks = calls * HOOK_NS / open_ns
    samples = None
    if elapsed_ns > 0:
        samples = max(0, after.sample_ns - before.sample_ns) / elapsed_ns
    return Costs(hooks, samples)


class ShareControl:
    """Follows the traffic of small blocks with the share of time in which they are watched."""

    def __init__(self, share: float) -> None:
        self.share = share
        self._smoothed: float | None = None

    def observe(self, hooks_at_full_share: float | None) -> float:
        """The share from now on."""
        if hooks_at_full_share is None:
            return self.share
        # Up at once, down slowly: a burst must not be paid for, and a pause between two must not invite the next.
        if self._smoothed is None or hooks_at_full_share > self._smoothed:
            self._smoothed = hooks_at_full_share
        else:
            self._smoothed += 0.25 * (hooks_at_full_share - self._smoothed)
        wanted = SHARE_MAX
        if self._smoothed > 0:
            wanted = min(SHARE_MAX, max(SHARE_MIN, HOOK_COST_RATIO / self._smoothed))
        if not 1 / SHARE_CHANGE_MIN < wanted / self.share < SHARE_CHANGE_MIN:
            self.share = wanted
        return self.share


class IntervalControl:
    """Doubles the sampling interval when taking samples costs too much; halves it after long calm."""

    def __init__(self, configured_bytes: float) -> None:
        self._configured_bytes = configured_bytes
        self._calm = 0

    def observe(self, current_bytes: float, sample_cost: float | None, table_filled: float) -> float:
        """The interval from now on; table_filled is between 0 and 1."""
        if sample_cost is None:
            return current_bytes
        if sample_cost > SAMPLE_COST_RATIO:
            self._calm = 0
            return current_bytes * 2
        is_calm = sample_cost < SAMPLE_CALM_RATIO and table_filled < TABLE_CALM_RATIO
        self._calm = self._calm + 1 if is_calm else 0
        if self._calm >= CALM_READINGS and current_bytes > self._configured_bytes:
            self._calm = 0
            return max(self._configured_bytes, current_bytes / 2)
        return current_bytes
