"""How histograms of durations lie in a column: one word for each bucket that is not empty. Pure: no I/O.

A word has the bucket in its upper 11 bits (1024 more than its number, at the row's scale), then two bits that say
how often the count is to be multiplied by 2^19, then 19 bits of the count. Words add up, in any order and number, so
histograms of many rows are summed up by putting their words one after the other; and most rows have five to fifteen.

Scales above 4 are brought down to 4 by merging neighbours, which is exact: with base 2^(1/16) a value is known to
4 %, and every bucket of a duration between 2^-64 and 2^64 s has a number of eleven bits. Agents send scale 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...model.heap import U64
from ...model.timing import Histogram

SCALE_STORED_MAX = 4

_BUCKET_SHIFT = 21
_BIAS = 1 << 10
_PART_BITS = 19
_PART = (1 << _PART_BITS) - 1
_EMPTY = np.zeros(0, dtype=np.uint64)


def stored_scale(histogram: Histogram) -> int:
    """The scale at which pack() stores it."""
    return min(histogram.scale, SCALE_STORED_MAX)


def pack(histograms: Sequence[Histogram]) -> list[str]:
    """Hexadecimal words of each."""
    lengths = np.array([len(one.counts) for one in histograms], dtype=np.int64)
    if not lengths.sum():
        return [""] * len(histograms)
    counts = np.concatenate([one.counts for one in histograms]).astype(np.uint64)
    row = np.repeat(np.arange(len(histograms)), lengths)
    first = np.array([one.offset for one in histograms], dtype=np.int64) - (np.cumsum(lengths) - lengths)
    bucket = first[row] + np.arange(len(row))
    bucket >>= np.array([max(0, one.scale - SCALE_STORED_MAX) for one in histograms], dtype=np.int64)[row]
    if bucket.min() < -_BIAS or bucket.max() >= _BIAS:
        raise ValueError("A histogram has a bucket that is no duration.")
    parts = []
    for power in range(3):
        part = (counts >> np.uint64(power * _PART_BITS)) & np.uint64(_PART)
        some = np.flatnonzero(part)
        if len(some):
            words = (bucket[some] + _BIAS) << _BUCKET_SHIFT | power << _PART_BITS
            parts.append((row[some], words.astype(np.uint32) | part[some].astype(np.uint32)))
    rows = np.concatenate([rows for rows, _ in parts]) if parts else np.zeros(0, dtype=np.int64)
    words = np.concatenate([words for _, words in parts]) if parts else np.zeros(0, dtype=np.uint32)
    order = np.argsort(rows, kind="stable")
    text = words[order].astype("<u4").tobytes().hex()
    edges = (np.searchsorted(rows[order], np.arange(len(histograms) + 1)) * 8).tolist()
    return [text[start:end] for start, end in pairwise(edges)]


def unpack(rows: Sequence[bytes]) -> list[tuple[int, U64]]:
    """Offset and counts of every row, from its words."""
    sums = Sums()
    sums.add(np.arange(len(rows)), rows)
    return sums.take(len(rows))


class Sums:
    """Adds up the words of many rows by group, portion after portion; rows of one group are of one scale.

    Sums are exact up to 2^53 in one bucket.
    """

    def __init__(self) -> None:
        self._groups: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        self._buckets: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
        self._values: list[NDArray[np.float64]] = [np.zeros(0)]

    def add(self, group: NDArray[np.integer[Any]], rows: Sequence[bytes]) -> None:
        """Rows and the number of the group each belongs to."""
        words = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows)) // 4
        packed = np.frombuffer(b"".join(rows), dtype="<u4")
        value = (packed & np.uint32(_PART)).astype(np.float64)
        if int(np.bitwise_or.reduce(packed)) >> _PART_BITS & 3:
            power = packed >> np.uint32(_PART_BITS) & np.uint32(3)
            value *= 2.0 ** (power.astype(np.float64) * _PART_BITS)
        bucket = (packed >> np.uint32(_BUCKET_SHIFT)).astype(np.int64)
        groups, buckets, values = _summed(np.repeat(group, words), bucket, value)
        self._groups.append(groups)
        self._buckets.append(buckets)
        self._values.append(values)

    def take(self, groups: int) -> list[tuple[int, U64]]:
        """Offset and counts of every group."""
        group, bucket, value = _summed(
            np.concatenate(self._groups), np.concatenate(self._buckets), np.concatenate(self._values)
        )
        edges = np.searchsorted(group, np.arange(groups + 1)).tolist()
        found = []
        for start, end in pairwise(edges):
            if start == end:
                found.append((0, _EMPTY))
                continue
            low = int(bucket[start])
            counts = np.zeros(int(bucket[end - 1]) - low + 1, dtype=np.uint64)
            counts[bucket[start:end] - low] = value[start:end]
            found.append((low - _BIAS, counts))
        return found


def _summed(
    group: NDArray[np.integer[Any]], bucket: NDArray[np.int64], value: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Every bucket of every group once, in order, with the sum of its values.

    By counting into a table of all groups and buckets, which is several times as fast as sorting, unless that table
    would be much larger than what it is made of.
    """
    if not len(bucket):
        return group.astype(np.int64), bucket, value
    low = int(bucket.min())
    width = int(bucket.max()) - low + 1
    key = group * np.int64(width)
    key += bucket
    key -= low
    if width * (int(group.max()) + 1) < max(2**20, 4 * len(key)):
        table = np.bincount(key, weights=value)
        unique = np.flatnonzero(table)
        total = table[unique]
    else:
        unique, place = np.unique(key, return_inverse=True)
        total = np.bincount(place, weights=value)
    return unique // width, unique % width + low, total


def merged(one: Histogram, other: Histogram) -> Histogram:
    """Both together, at the coarser of their scales."""
    if not other.count:
        return one
    if not one.count:
        return other
    scale = min(one.scale, other.scale)
    (low, counts), (low_other, counts_other) = _coarser(one, scale), _coarser(other, scale)
    start = min(low, low_other)
    total = np.zeros(max(low + len(counts), low_other + len(counts_other)) - start, dtype=np.uint64)
    total[low - start :][: len(counts)] += counts
    total[low_other - start :][: len(counts_other)] += counts_other
    return Histogram(
        scale,
        one.zero_count + other.zero_count,
        start,
        total,
        one.sum_s + other.sum_s,
        min(one.min_s, other.min_s),
        max(one.max_s, other.max_s),
    )


def _coarser(histogram: Histogram, scale: int) -> tuple[int, U64]:
    counts = histogram.counts
    if histogram.scale == scale or not len(counts):
        return histogram.offset, counts
    bucket = (histogram.offset + np.arange(len(counts))) >> (histogram.scale - scale)
    summed = np.zeros(int(bucket[-1] - bucket[0]) + 1, dtype=np.uint64)
    np.add.at(summed, bucket - bucket[0], counts)
    return int(bucket[0]), summed
