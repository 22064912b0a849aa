"""What else could make a series rise: a warm-up, a cache that fills, a step, load that wanders.

Each function measures one such explanation for columns of block values (K, N) at times (K,) and returns (N,). The
thresholds stand in verdict.py, beside the sentence that explains them.
"""

from __future__ import annotations

import numpy as np

from ..model.heap import F64
from . import trend

# A warm-up approaches its end exponentially: time constants as shares of the window.
_WARM_UPS = (0.1, 0.2, 0.35, 0.6, 1.0)
# A cache fills evenly and is full from then on: when, as a share of the window.
_KNEES = (0.3, 0.45, 0.6, 0.75, 0.9)


def odds_against_levelling(times: F64, values: F64) -> F64:
    """Log odds of "goes on in a straight line" against "levels off" (a warm-up, or a cache that becomes full)."""
    part = _part(times)
    levelling = [-np.expm1(-part / constant) for constant in _WARM_UPS] + [np.minimum(part, knee) for knee in _KNEES]
    return trend.log_evidence(times, values, [part]) - trend.log_evidence(times, values, levelling)


def odds_against_step(times: F64, values: F64) -> F64:
    """Log odds of "goes on in a straight line" against "flat, one jump, flat"."""
    part = _part(times)
    steps = [(part >= at).astype(float) for at in part[1:]]
    return trend.log_evidence(times, values, [part]) - trend.log_evidence(times, values, steps)


def largest_jump_share(values: F64) -> F64:
    """Largest rise from one block to the next as a share of the whole rise; infinite when there is none."""
    rise = values[-1] - values[0]
    share: F64 = np.divide(
        np.diff(values, axis=0).max(axis=0), rise, out=np.full(values.shape[1], np.inf), where=rise > 0
    )
    return share


def tail_share(times: F64, values: F64, part: float) -> F64:
    """Slope of the last `part` of the blocks as a share of the slope of all; 0 when nothing rises."""
    first = len(times) - max(4, round(len(times) * part))
    whole = trend.slope(times, values)
    tail = trend.slope(times[first:], values[first:])
    return np.divide(tail, whole, out=np.zeros_like(whole), where=whole > 0)


def _part(times: F64) -> F64:
    part: F64 = (times - times[0]) / (times[-1] - times[0])
    return part
