"""The estimates: right on average, and as uncertain as they say.

Each test builds a heap whose true size is known, under many seeds, and compares the mean of the estimates with the
truth in units of its own standard error. Five standard errors: a right sampler fails once in a million runs, and a bias
of the kind that matters (a weight truncated, a birth missed) is ten or more away.
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Callable
from itertools import repeat

import pytest
from glassbottom import _native

from tests.support.sampling import sampler, within

BLOCK = sys.getsizeof(b"")  # of a bytes object without content; such objects have no header before them


def estimates(
    build: Callable[[list[object]], float],
    *,
    seeds: int,
    after: Callable[[], None] = lambda: None,
    **rate: float,
) -> tuple[list[float], list[float], list[float]]:
    """(estimate / truth, claimed variance of that, objects estimated) per seed, of what `build` keeps alive."""
    ratios, variances, objects = [], [], []
    for seed in range(1, seeds + 1):
        kept: list[object] = []
        with sampler(seed=seed, **rate):
            truth = build(kept)
            after()
            found = within(_native.snapshot(), build.__name__)
            estimate = sum(row.live_bytes for row in found)
            variance = sum(row.live_bytes_variance for row in found)
            ratios.append(estimate / truth)
            objects.append(sum(row.live_objects for row in found))
            variances.append(variance / truth**2)
            kept.clear()
    return ratios, variances, objects


def assert_right_on_average(values: list[float], truth: float = 1.0) -> None:
    standard_error = statistics.stdev(values) / math.sqrt(len(values))
    assert abs(statistics.mean(values) - truth) < 5 * standard_error, (statistics.mean(values), standard_error)
    # A mean that is right only because it says nothing would pass the line above.
    assert standard_error < 0.08 * truth


def assert_error_is_honest(ratios: list[float], variances: list[float]) -> None:
    """The variance claimed, on average, is the one that shows between seeds (itself known to a third or so)."""
    assert 0.4 < statistics.mean(variances) / statistics.variance(ratios) < 2.5


def small_blocks(kept: list[object]) -> float:
    kept.extend([bytes(100) for _ in range(3000)])
    return 3000 * (BLOCK + 100) + sys.getsizeof(kept) - sys.getsizeof([])


def mixed_blocks(kept: list[object]) -> float:
    truth = 0
    for i in range(1500):
        size = (1, 40, 200, 450, 600, 3000, 20_000)[i % 7]
        block = bytes(size)
        kept.append(block)
        truth += BLOCK + size
    return truth + sys.getsizeof(kept) - sys.getsizeof([])


def growing_blocks(kept: list[object]) -> float:
    """Small blocks that grow, some past 512 bytes, and some that shrink again: every way a realloc can go."""
    truth = 0
    empty = sys.getsizeof(bytearray())
    for i in range(600):
        block = bytearray(16)
        for _ in range(i % 30):
            block.extend(b"0123456789abcdef" * 2)
        if i % 3 == 0:
            del block[40:]
        kept.append(block)
        # The object itself, with its header for the collector if it has one, and its buffer.
        truth += empty + (sys.getsizeof(block) - empty)
    return truth + sys.getsizeof(kept) - sys.getsizeof([])


@pytest.mark.parametrize("build", [small_blocks, mixed_blocks, growing_blocks])
def test_live_bytes_are_right_on_average_over_200_seeds(build: Callable[[list[object]], float]) -> None:
    ratios, variances, _ = estimates(build, seeds=200, share=1.0)

    assert_right_on_average(ratios)
    assert_error_is_honest(ratios, variances)


def test_live_objects_are_right_on_average() -> None:
    """Counts need the weight of a small block to stay a real number: rounded to an integer it is off by a third."""
    _, _, objects = estimates(small_blocks, seeds=200, share=1.0, interval_bytes=4096.0)

    # The list that keeps them is one more block, and grows in the builder too.
    assert_right_on_average(objects, truth=3001)


def test_thinning_keeps_the_estimate_right() -> None:
    """Three doublings of the interval after the heap was built: fewer samples, the same mean."""

    def coarser() -> None:
        for interval_bytes in (8192.0, 16384.0, 32768.0):
            _native.set_rate(interval_bytes=interval_bytes)

    ratios, variances, _ = estimates(mixed_blocks, seeds=200, after=coarser, share=1.0, interval_bytes=4096.0)

    assert_right_on_average(ratios)
    assert_error_is_honest(ratios, variances)


def test_a_full_table_thins_itself_and_stays_right() -> None:
    """More samples than the table has room for: the interval rises by itself, nothing is dropped."""
    kept: list[object] = []
    with sampler(share=1.0, interval_bytes=4096.0, seed=3):
        size = 8000
        for _ in range(60_000):
            kept.append(bytes(size))
        found = within(_native.snapshot(), "test_a_full_table_thins_itself_and_stays_right")
        statistics_now = _native.statistics()
        estimate = sum(row.live_bytes for row in found)
    truth = 60_000 * (BLOCK + size)

    assert statistics_now["thinnings"] >= 1
    assert statistics_now["samples_dropped"] == 0
    assert statistics_now["samples_live"] <= statistics_now["samples_live_max"]
    assert abs(estimate / truth - 1) < 0.05


def trickle(kept: list[object]) -> float:
    """Small allocations over time, giving the GIL away between them as a service does that waits for its network."""
    count = 0
    end = time.perf_counter() + 0.25
    while time.perf_counter() < end:
        for _ in range(40):
            kept.append(bytes(100))
        count += 40
        time.sleep(0.0005)
    return count * (BLOCK + 100) + sys.getsizeof(kept) - sys.getsizeof([])


def long_calls(kept: list[object]) -> float:
    """Calls that keep the GIL for longer than a window, and allocate all the while."""
    truth = 0.0
    end = time.perf_counter() + 0.25
    while time.perf_counter() < end:
        objects = list(map(bytes, repeat(100, 30_000)))
        kept.append(objects)
        truth += 30_000 * (BLOCK + 100) + sys.getsizeof(objects)
        time.sleep(0.004)
    return truth + sys.getsizeof(kept) - sys.getsizeof([])


@pytest.mark.once  # ten seconds of windows each; the estimates above are made on every version
@pytest.mark.parametrize("build", [trickle, long_calls])
def test_windows_keep_the_estimate_right_and_its_error_honest(build: Callable[[list[object]], float]) -> None:
    """A fifth of the time watched, in some twenty windows of 2 ms. The error bars must know that windows, not samples,
    are the independent units: by the samples alone the variance would be claimed to be a tenth of what it is."""
    ratios, variances, _ = estimates(build, seeds=40, share=0.2, window_ms=2.0, interval_bytes=16384.0)

    assert_right_on_average(ratios)
    assert_error_is_honest(ratios, variances)


def growing_trickle(kept: list[object]) -> float:
    """Small blocks that grow several times, within one window and across its ends."""
    truth = 0
    end = time.perf_counter() + 0.25
    while time.perf_counter() < end:
        for _ in range(8):
            block = bytearray(16)
            for _ in range(20):
                block.extend(b"0123456789abcdef")
            kept.append(block)
            truth += sys.getsizeof(block)
        time.sleep(0.0005)
    return truth + sys.getsizeof(kept) - sys.getsizeof([])


@pytest.mark.once
def test_blocks_that_grow_within_a_window_count_for_their_unseen_likes() -> None:
    """What was sampled lies outside the arenas, but its next growth must still be weighed as a window's."""
    ratios, _, _ = estimates(growing_trickle, seeds=40, share=0.2, window_ms=2.0, interval_bytes=8192.0)

    assert_right_on_average(ratios)


def test_what_could_not_be_allocated_is_not_counted_and_does_not_blind_the_thread() -> None:
    with sampler(share=1.0, interval_bytes=65536.0):
        kept: list[object] = []
        for _ in range(200):
            with pytest.raises(MemoryError):
                bytearray(1 << 46)
            kept.append(bytes(600))
        with pytest.raises(MemoryError):
            bytearray((1 << 62) - 1)
        with pytest.raises(MemoryError):
            bytearray((1 << 62) - 1)
        small = sum(row.live_bytes for row in within(_native.snapshot(), sys._getframe().f_code.co_name))
        kept.extend(bytes(1_000_000) for _ in range(64))
        large = sum(row.live_bytes for row in within(_native.snapshot(), sys._getframe().f_code.co_name))
    assert small < 200 * 633 * 10
    assert large == pytest.approx(64e6, rel=0.1)


def test_freed_blocks_leave_nothing_behind() -> None:
    kept: list[object] = []
    with sampler(share=1.0, interval_bytes=4096.0):
        mixed_blocks(kept)
        growing_blocks(kept)
        assert within(_native.snapshot(), "mixed_blocks")
        kept.clear()

        after = [row for name in ("mixed_blocks", "growing_blocks") for row in within(_native.snapshot(), name)]

    # The rows stay, for what was allocated there in all.
    assert sum(row.samples for row in after) == 0
    assert sum(row.live_bytes for row in after) == 0.0
    assert sum(row.alloc_bytes for row in after) > 1e6
