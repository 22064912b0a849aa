"""Steps that are the sampler's own: what happens to a series when the sampling interval is doubled.

A full table, or samples that have become too dear, make the agent double its interval (its native/table.c). Each sample
stays with the odds of the coarser interval and stands for more then: unbiased, but every site moves by about the root
of
its samples in that one reading, and stays there, since old samples are not drawn again. Nothing of it is the
application's doing, so it must not count as a step, as noise or as a flat tail.

Of a site with samples of variance v, going from interval a to b adds a variance of v (b/a - 1): each sample of weight w
is kept with probability a/b and stands for w b/a, which adds w^2 (b/a - 1), and v is the sum of w^2. A jump at that
moment of no more than three of its standard deviations is taken out of the series; what is larger is something else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..model.heap import F64, I64, SnapshotHeader

# An interval told in a double may differ in its last digit; doubling is by far more.
RATIO_MIN = 1.05
DEVIATIONS = 3.0
# The readings before the moment from which is taken how the age mass would have gone on.
READINGS_BEFORE = 3


@dataclass(frozen=True)
class Thinning:
    """Between snapshots `row` and `row + 1` the interval grew by the factor `ratio`."""

    row: int
    ratio: float


def thinnings(headers: Sequence[SnapshotHeader], first: int, last: int) -> list[Thinning]:
    """Those between two snapshots of a series, given by their positions."""
    return [
        Thinning(row, headers[row + 1].interval_bytes / headers[row].interval_bytes)
        for row in range(first, last)
        if headers[row].interval_bytes > 0 and headers[row + 1].interval_bytes > RATIO_MIN * headers[row].interval_bytes
    ]


def rows_needed(found: Sequence[Thinning], first: int) -> list[int]:
    """Snapshots whose age mass unjumped() wants to know."""
    return [row for each in found for row in (max(each.row - READINGS_BEFORE, first), each.row, each.row + 1)]


def unjumped(mass: F64, at_ns: I64, rows: I64, found: Sequence[Thinning], first: int) -> F64:
    """Age mass (P, N) at snapshots `rows` (P,), which contain rows_needed(), without its jumps.

    What the mass would have gained in the interval is what it gained per second just before.
    """
    result = mass.copy()
    for each in found:
        before, here, after = np.searchsorted(rows, [max(each.row - READINGS_BEFORE, first), each.row, each.row + 1])
        seconds = float(at_ns[rows[here]] - at_ns[rows[before]]) / 1e9
        gained = (mass[here] - mass[before]) / seconds if seconds > 0 else np.zeros(mass.shape[1])
        expected = gained * float(at_ns[rows[after]] - at_ns[rows[here]]) / 1e9
        result[after:] -= mass[after] - mass[here] - expected
    return result


def relevelled(values: F64, edges_ns: I64, at_ns: I64, found: Sequence[Thinning], variances: Sequence[F64]) -> F64:
    """Block values (K, N) without the steps at these moments. variances: of the amounts just before each, (N,)."""
    count = len(values)
    if not found or count < 5:
        return values
    result = values.copy()
    for each, variance in zip(found, variances, strict=True):
        moment = (at_ns[each.row] + at_ns[each.row + 1]) / 2
        block = int(np.clip(np.searchsorted(edges_ns, moment, side="right") - 1, 0, count - 1))
        before, after = max(block - 1, 0), min(block + 1, count - 1)
        steps = np.diff(result, axis=0)
        undisturbed = np.delete(steps, [row for row in (block - 1, block) if 0 <= row < count - 1], axis=0)
        usual = np.median(undisturbed, axis=0)
        most = DEVIATIONS * np.sqrt(variance * (each.ratio - 1))
        jump = np.clip(result[after] - result[before] - (after - before) * usual, -most, most)
        inside = float(np.clip((edges_ns[block + 1] - moment) / (edges_ns[block + 1] - edges_ns[block]), 0.0, 1.0))
        result[block + 1 :] -= jump
        result[block] -= inside * jump
    return result
