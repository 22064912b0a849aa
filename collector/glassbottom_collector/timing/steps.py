"""Readings on even steps of time: what a minute ended with, and by how much a counter rose in it.

A step without readings has no value (NaN): what nobody measured is not made up from its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from ..model.heap import F64, I64, MetricPoint
from ..model.process import Span

STEP_NS = 60 * 10**9
STEPS_MAX = 1440


@dataclass(frozen=True)
class Steps:
    """`count` steps of step_ns, of which the last ends at to_ns."""

    to_ns: int
    step_ns: int
    count: int

    @property
    def from_ns(self) -> int:
        """Beginning of the first."""
        return self.to_ns - self.count * self.step_ns

    @property
    def edges(self) -> I64:
        """Beginnings of all, and the end of the last: shape (count + 1,)."""
        return self.from_ns + np.arange(self.count + 1, dtype=np.int64) * self.step_ns

    def span(self, step: int) -> Span:
        """One of them."""
        return Span(self.from_ns + step * self.step_ns, self.from_ns + (step + 1) * self.step_ns)

    def of(self, at_ns: int) -> int:
        """The step a moment is in; outside 0 to count - 1 when in none."""
        return (at_ns - self.from_ns) // self.step_ns


@dataclass(frozen=True)
class Curve:
    """Readings of one number of one process, by time: (T,) each."""

    at_ns: I64
    values: F64


def steps_of(within: Span) -> Steps:
    """Minutes that end with the range, of which the first may begin before it; of a longer range than a day, multiples
    of a minute."""
    minutes = math.ceil((within.to_ns - within.from_ns) / STEP_NS)
    each = math.ceil(minutes / STEPS_MAX)
    return Steps(within.to_ns, each * STEP_NS, math.ceil(minutes / each))


def curves(
    points: Iterable[MetricPoint], together: Sequence[str] = ()
) -> dict[tuple[str, tuple[tuple[str, str], ...]], Curve]:
    """By name and attributes. together: attributes over which readings of one moment are added up."""
    sums: dict[tuple[str, tuple[tuple[str, str], ...]], dict[int, float]] = {}
    for point in points:
        key = (point.name, tuple(pair for pair in point.attributes if pair[0] not in together))
        mine = sums.setdefault(key, {})
        mine[point.at_ns] = mine.get(point.at_ns, 0.0) + point.value
    return {
        key: Curve(np.array(sorted(mine), dtype=np.int64), np.array([mine[at_ns] for at_ns in sorted(mine)]))
        for key, mine in sums.items()
    }


def last(curve: Curve, steps: Steps) -> F64:
    """The last reading in each step: (count,)."""
    before = np.searchsorted(curve.at_ns, steps.edges, side="left")
    values = np.full(steps.count, math.nan)
    known = before[1:] > before[:-1]
    values[known] = curve.values[before[1:][known] - 1]
    return values


def rate(curve: Curve, steps: Steps) -> F64:
    """How much a counter rose per second in each step, up to its last reading in it: (count,).

    From the last reading of the step before, else from the first in the step; a counter that fell tells nothing.
    """
    before = np.searchsorted(curve.at_ns, steps.edges, side="left")
    values = np.full(steps.count, math.nan)
    for step in np.flatnonzero(before[1:] > before[:-1]).tolist():
        first, end = int(before[step]), int(before[step + 1]) - 1
        if first > 0 and curve.at_ns[first - 1] >= steps.from_ns + (step - 1) * steps.step_ns:
            first -= 1
        rose = float(curve.values[end] - curve.values[first])
        if end > first and rose >= 0:
            values[step] = rose / (int(curve.at_ns[end] - curve.at_ns[first]) / 1e9)
    return values
