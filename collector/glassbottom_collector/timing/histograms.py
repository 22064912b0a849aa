"""Sums and quantiles of OpenTelemetry exponential histograms.

Buckets are those of the OpenTelemetry data model (metrics/data-model, "ExponentialHistogram"): bucket i holds values
in (base^i, base^(i+1)] with base = 2^(2^-scale). Halving the resolution merges neighbours, i -> floor(i / 2), and is
exact, so histograms of any scales add up at the coarsest of them.

A quantile is found by rank and interpolated geometrically inside its bucket, as Prometheus does for native
histograms since version 3.0 ("exponential interpolation"): the logarithm of the values is taken to be spread evenly.
It is never off by more than the bucket's width, 4.4 % at scale 4, and by 2.2 % at most from the bucket's middle. What
the bucket leaves open at the ends is closed by the smallest and the largest value, which are told exactly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..model.timing import EMPTY, Histogram

BUCKETS_MAX = 100_000
"""More cannot come from finite values at scale 4 (2 098 octaves of doubles times 16 buckets)."""


def merged(histograms: Sequence[Histogram]) -> Histogram:
    """The histogram of all values together, at the coarsest scale among those that hold any."""
    held = [each for each in histograms if each.count]
    if not held:
        return EMPTY
    filled = [each for each in held if len(each.counts)]
    scale = min((each.scale for each in filled), default=EMPTY.scale)
    offset, counts = 0, np.zeros(0, dtype=np.uint64)
    if filled:
        index, scale = _indices(filled, scale)
        offset = int(index.min())
        # Floats hold counts up to 2^53 exactly, and so many operations nobody has.
        weights = np.concatenate([each.counts for each in filled]).astype(float)
        counts = np.bincount(index - offset, weights=weights).astype(np.uint64)
    return Histogram(
        scale=scale,
        zero_count=sum(each.zero_count for each in held),
        offset=offset,
        counts=counts,
        sum_s=sum(each.sum_s for each in held),
        min_s=min(each.min_s for each in held),
        max_s=max(each.max_s for each in held),
    )


def _indices(histograms: Sequence[Histogram], scale: int) -> tuple[NDArray[np.int64], int]:
    """Index of every bucket of every histogram at the scale, and the scale, lowered until the range is bounded."""
    lengths = np.array([len(each.counts) for each in histograms])
    starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
    index = np.repeat(np.array([each.offset for each in histograms], dtype=np.int64), lengths)
    index = index + np.arange(lengths.sum()) - starts
    # A shift of 63 leaves 0 or -1 of any index: beyond that nothing changes.
    finer = np.array([min(each.scale - scale, 63) for each in histograms], dtype=np.int64)
    index = index >> np.repeat(finer, lengths)
    while int(index.max()) - int(index.min()) >= BUCKETS_MAX:
        index, scale = index >> 1, scale - 1
    return index, scale


def quantile(histogram: Histogram, share: float) -> float:
    """The value that `share` of the values do not exceed, seconds; 0 when there are none."""
    return quantiles(histogram, (share,))[0]


def quantiles(histogram: Histogram, shares: Sequence[float]) -> list[float]:
    """As `quantile`, for several shares of one histogram."""
    if not histogram.count:
        return [0.0 for _ in shares]
    cumulative = np.cumsum(histogram.counts.astype(float)) + histogram.zero_count
    return [_quantile(histogram, cumulative, share * histogram.count) for share in shares]


def _quantile(histogram: Histogram, cumulative: NDArray[np.float64], rank: float) -> float:
    if rank <= histogram.zero_count or not len(cumulative):
        return 0.0 if histogram.zero_count else histogram.min_s
    bucket = min(int(np.searchsorted(cumulative, rank, side="left")), len(cumulative) - 1)
    inside = float(histogram.counts[bucket])
    before = float(cumulative[bucket]) - inside
    part = min(max((rank - before) / inside, 0.0), 1.0) if inside else 1.0
    value = _bound(histogram, bucket + part)
    return min(max(value, histogram.min_s), histogram.max_s)


def above(histogram: Histogram, threshold_s: float) -> int:
    """How many values are greater, to the part of one bucket: interpolated as a quantile is."""
    if histogram.max_s <= threshold_s or not histogram.count:
        return 0
    if histogram.min_s > threshold_s and not histogram.zero_count:
        return histogram.count
    if threshold_s <= 0:
        return int(histogram.counts.sum())
    position = math.ldexp(math.log2(threshold_s), histogram.scale) - histogram.offset
    whole = min(max(math.floor(position), -1), len(histogram.counts))
    greater = float(histogram.counts[whole + 1 :].sum())
    if 0 <= whole < len(histogram.counts):
        greater += float(histogram.counts[whole]) * (1 - (position - whole))
    # The largest is greater, whatever the interpolation says.
    return max(round(greater), 1)


def _bound(histogram: Histogram, position: float) -> float:
    """Value at a fractional bucket position: position k is the lower bound of bucket k."""
    exponent = math.ldexp(histogram.offset + position, -histogram.scale)
    return math.exp2(min(max(exponent, -1074.0), 1023.0))
