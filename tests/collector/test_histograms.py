"""Sums and quantiles of exponential histograms, against the values they were made of."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.model.timing import EMPTY, Histogram
from glassbottom_collector.timing.histograms import above, merged, quantile, quantiles

from tests.support.told import histogram

BUCKET = 2 ** (1 / 16)


def durations(seed: int, count: int = 2000) -> np.ndarray:
    return np.exp(np.random.default_rng(seed).normal(-4, 1.5, count))


def test_parts_add_up_to_the_histogram_of_all_values():
    values = durations(1)
    whole = merged([histogram(*part) for part in np.array_split(values, 7)])
    alone = histogram(*values)

    assert (whole.scale, whole.offset, whole.counts.tolist()) == (4, alone.offset, alone.counts.tolist())
    assert (whole.min_s, whole.max_s) == (alone.min_s, alone.max_s)
    assert whole.sum_s == pytest.approx(alone.sum_s)


def test_different_scales_add_up_at_the_coarsest_and_lose_no_value():
    values = durations(2)
    parts = (values[:500], 6), (values[500:900], 4), (values[900:], 1)
    mixed = merged([histogram(*part, scale=scale) for part, scale in parts])
    coarse = histogram(*values, scale=1)

    assert (mixed.scale, mixed.offset, mixed.counts.tolist()) == (1, coarse.offset, coarse.counts.tolist())


def test_nothing_added_to_nothing_is_empty_and_does_not_lower_the_resolution():
    coarse_and_empty = Histogram(-3, 0, 0, np.zeros(0, dtype=np.uint64), 0.0, 0.0, 0.0)

    assert merged([]) == EMPTY
    assert merged([histogram(0.5), coarse_and_empty]).scale == 4


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.95, 0.99])
def test_a_quantile_is_right_to_a_bucket(share):
    for seed in range(20):
        values = np.sort(durations(seed, 1500))
        exact = values[int(np.ceil(share * len(values))) - 1]

        assert exact / BUCKET <= quantile(histogram(*values), share) <= exact * BUCKET


def test_interpolation_is_geometric_and_ends_at_the_smallest_and_largest_value():
    four = histogram(1.01, 1.02, 1.03, 1.04)  # all in the bucket (1, 1.0443]

    assert quantile(four, 0.5) == pytest.approx(BUCKET**0.5)
    assert (quantile(four, 0.0), quantile(four, 1.0)) == (1.01, 1.04)
    assert quantiles(histogram(0.3), (0.01, 0.5, 0.99)) == [0.3, 0.3, 0.3]


def test_values_of_zero_are_counted_and_are_the_least():
    mixed = histogram(0.0, 0.0, 0.0, 2.0)

    assert mixed.count == 4
    assert quantiles(mixed, (0.5, 0.99)) == pytest.approx([0.0, 2.0], rel=0.05)
    assert quantile(histogram(0.0, 0.0), 0.95) == 0.0
    assert quantile(EMPTY, 0.95) == 0.0


def test_how_many_were_slower_than_a_threshold():
    values = durations(3)
    for threshold in (0.001, 0.02, 0.1, 1.0):
        exact = int((values > threshold).sum())
        near = int(((values > threshold / BUCKET) & (values <= threshold * BUCKET)).sum())
        assert abs(above(histogram(*values), threshold) - exact) <= near

    assert above(histogram(0.5, 0.99), 1.0) == 0
    assert above(histogram(1.5, 1.99), 1.0) == 2
    assert above(histogram(0.5, 1.001), 1.0) == 1
    assert above(histogram(0.0, 0.5), 0.0) == 1
    assert above(EMPTY, 1.0) == 0


def test_a_range_that_no_clock_can_have_made_does_not_take_the_memory():
    tiny, huge = histogram(1e-300, scale=10), histogram(1e300, scale=10)
    both = merged([tiny, huge])

    assert both.count == 2
    assert len(both.counts) <= 100_000
