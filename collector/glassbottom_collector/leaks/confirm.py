"""Whether the evidence confirms itself: two windows that share no moment must each show the growth.

A series that happens to rise once has no reason to rise again. The blocks are parted in the middle, and each half is
judged as if there were no other; by chance alone both rise with the product of two chances.
"""

from __future__ import annotations

import numpy as np

from ..model.heap import F64
from . import trend

# Of each half. Chosen on tuning seeds: 0.05 would miss one slow leak in twenty more, and no benign curve fewer.
HALF_P = 0.1


def halves(retained: F64) -> tuple[F64, F64]:
    """One-sided p of growth in the first and in the second half of blocks (K, N): two arrays (N,).

    Exact (Mann-Kendall), and of disjoint windows; a block in the middle of an odd number belongs to neither.
    """
    half = len(retained) // 2
    return trend.mann_kendall(retained[:half])[1], trend.mann_kendall(retained[-half:])[1]


def confirmed(first: float, second: float) -> bool:
    """Whether both halves say so."""
    return bool(np.maximum(first, second) < HALF_P)
