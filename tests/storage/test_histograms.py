"""Histograms as words: whatever an agent may send comes back, alone or summed up."""

from __future__ import annotations

import numpy as np
import pytest
from glassbottom_collector.model.timing import EMPTY, Histogram
from glassbottom_collector.storage.embedded.histograms import Sums, merged, pack, stored_scale, unpack
from hypothesis import given
from hypothesis import strategies as st

from tests.support.store_agent import histogram


def of(offset: int, counts: list[int], scale: int = 4) -> Histogram:
    """A histogram of these buckets; sums do not matter here."""
    return Histogram(scale, 0, offset, np.array(counts, dtype=np.uint64), float(sum(counts)), 0.0, 1.0)


def by_bucket(offset: int, counts: np.ndarray) -> dict[int, int]:
    """{bucket: count} of those that are not empty."""
    return {offset + place: count for place, count in enumerate(counts.tolist()) if count}


def unpacked(histograms: list[Histogram]) -> list[dict[int, int]]:
    """What comes back of each."""
    return [by_bucket(*found) for found in unpack([bytes.fromhex(words) for words in pack(histograms)])]


histograms = st.builds(
    of,
    st.integers(-1024, 1000),
    st.lists(st.one_of(st.just(0), st.integers(0, 50), st.integers(0, 2**48)), max_size=24),
)


@given(st.lists(histograms, max_size=8))
def test_every_bucket_comes_back(some: list[Histogram]) -> None:
    assert unpacked(some) == [by_bucket(one.offset, one.counts) for one in some]


@given(st.lists(st.tuples(st.integers(0, 3), histograms), min_size=1, max_size=12), st.integers(1, 5))
def test_words_of_a_group_add_up_however_they_are_portioned(some: list[tuple[int, Histogram]], size: int) -> None:
    expected: list[dict[int, int]] = [{} for _ in range(4)]
    for group, one in some:
        for bucket, count in by_bucket(one.offset, one.counts).items():
            expected[group][bucket] = expected[group].get(bucket, 0) + count
    rows = [bytes.fromhex(words) for words in pack([one for _, one in some])]
    sums = Sums()
    for start in range(0, len(rows), size):
        sums.add(np.array([group for group, _ in some[start : start + size]]), rows[start : start + size])
    assert [by_bucket(*found) for found in sums.take(4)] == expected


def test_groups_far_apart_in_a_thin_table_add_up_as_well() -> None:
    """Three words in ten thousand groups: counting into a table of all of them would not pay."""
    rows = [bytes.fromhex(words) for words in pack([of(-1024, [1]), of(1023, [2]), of(-1024, [3])])]
    sums = Sums()
    sums.add(np.array([0, 9_999, 0]), rows)
    found = sums.take(10_000)
    assert by_bucket(*found[0]) == {-1024: 4}
    assert by_bucket(*found[9_999]) == {1023: 2}
    assert sum(len(counts) for _, counts in found) == 2


def test_nothing_is_nothing() -> None:
    assert pack([]) == []
    assert unpack([]) == []
    assert unpacked([EMPTY, of(3, [0, 0])]) == [{}, {}]
    assert merged(EMPTY, EMPTY).count == 0


def test_a_bucket_takes_one_word() -> None:
    (words,) = pack([of(-54, [1, 0, 0, 524_287])])
    assert len(bytes.fromhex(words)) == 2 * 4
    (words,) = pack([of(-54, [524_288])])
    assert len(bytes.fromhex(words)) == 4
    (words,) = pack([of(-54, [2**48 - 1])])
    assert len(bytes.fromhex(words)) == 3 * 4


@pytest.mark.parametrize("scale", [5, 8, 20])
def test_a_finer_histogram_is_stored_as_if_it_had_been_recorded_at_scale_4(scale: int) -> None:
    values = [0.001, 0.0011, 0.25, 0.5, 1.0, 1.0000001, 3.7]
    fine, coarse = histogram(*values[:2], scale=scale), histogram(*values[:2])
    assert stored_scale(fine) == 4
    assert unpacked([fine]) == [by_bucket(coarse.offset, coarse.counts)]
    whole = merged(histogram(*values[:2]), histogram(*values[2:]))
    assert by_bucket(whole.offset, whole.counts) == by_bucket(histogram(*values).offset, histogram(*values).counts)


@pytest.mark.parametrize("scale", [3, 0, -2, -10])
def test_a_coarser_histogram_keeps_its_scale(scale: int) -> None:
    coarse = histogram(0.001, 0.2, 5.0, scale=scale)
    assert stored_scale(coarse) == scale
    assert unpacked([coarse]) == [by_bucket(coarse.offset, coarse.counts)]


@given(
    st.lists(st.floats(1e-9, 1e6), max_size=6),
    st.lists(st.floats(1e-9, 1e6), max_size=6),
    st.integers(-3, 4),
    st.integers(-3, 4),
)
def test_two_together_are_what_one_would_have_recorded(
    one: list[float], other: list[float], scale: int, other_scale: int
) -> None:
    both = merged(histogram(*one, scale=scale), histogram(*other, scale=other_scale))
    expected = histogram(*one, *other, scale=both.scale)
    assert both.scale in (scale, other_scale)
    assert by_bucket(both.offset, both.counts) == by_bucket(expected.offset, expected.counts)
    assert both.sum_s == pytest.approx(expected.sum_s)
    assert (both.min_s, both.max_s, both.count) == (expected.min_s, expected.max_s, expected.count)


def test_what_is_no_duration_is_not_stored() -> None:
    with pytest.raises(ValueError, match="no duration"):
        pack([of(1024, [1])])
