"""How histograms of durations lie in a column: one word for each bucket that is not empty. Pure: no I/O.

A word has the bucket in its upper 11 bits (1024 more than its number, at the row's scale), then two bits that say
how often the count is to be multiplied by 2^19, then 19 bits of the count. Words add up, in any order and number, so
histograms of many rows are summed up by putting their words one after the other; and most rows have five to fifteen.

Scales above 4 are brought down to 4 by merging neighbours, which is exact: with base 2^(1/16) a value is known to
4 %, and every bucket of a duration between 2^-64 and 2^64 s has a number of eleven bits. Agents send scale 4.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ...model.heap import U64
from ...model.timing import Histogram

SCALE_STORED_MAX = 4

_BUCKET_BITS = 21
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
            words = (bucket[some] + _BIAS) << _BUCKET_BITS | power << _PART_BITS
            parts.append((row[some], words.astype(np.uint32) | part[some].astype(np.uint32)))
    rows = np.concatenate([rows for rows, _ in parts]) if parts else np.zeros(0, dtype=np.int64)
    words = np.concatenate([words for _, words in parts]) if parts else np.zeros(0, dtype=np.uint32)
    order = np.argsort(rows, kind="stable")
    text = words[order].astype("<u4").tobytes().hex()
    edges = (np.searchsorted(rows[order], np.arange(len(histograms) + 1)) * 8).tolist()
    return [text[start:end] for start, end in pairwise(edges)]


def unpack(words: Iterable[bytes]) -> tuple[int, U64]:
    """Offset and counts of everything in the words of one or more rows of one scale."""
    packed = np.frombuffer(b"".join(words), dtype="<u4")
    if not len(packed):
        return 0, _EMPTY
    bucket = packed >> np.uint32(_BUCKET_BITS)
    low = int(bucket.min())
    value = (packed & np.uint32(_PART)).astype(np.uint64)
    power = packed >> np.uint32(_PART_BITS) & np.uint32(3)
    if power.any():
        value <<= power.astype(np.uint64) * np.uint64(_PART_BITS)
    # Counts above 2^53 in one bucket would be rounded; nothing ends so often.
    counts: NDArray[np.float64] = np.bincount(bucket - np.uint32(low), weights=value)
    return low - _BIAS, counts.astype(np.uint64)


def unpack_rows(rows: Sequence[bytes]) -> list[tuple[int, U64]]:
    """Offset and counts of every row by itself; what unpack() says of each."""
    words = np.array([len(row) // 4 for row in rows], dtype=np.int64)
    packed = np.frombuffer(b"".join(rows), dtype="<u4").astype(np.int64)
    filled = np.flatnonzero(words)
    if not len(filled):
        return [(0, _EMPTY)] * len(rows)
    starts = (np.cumsum(words) - words)[filled]
    bucket = packed >> _BUCKET_BITS
    low = np.minimum.reduceat(bucket, starts)
    width = np.maximum.reduceat(bucket, starts) - low + 1
    ends = np.cumsum(width)
    value = (packed & _PART) << ((packed >> _PART_BITS & 3) * _PART_BITS)
    flat = np.zeros(int(ends[-1]), dtype=np.uint64)
    np.add.at(flat, bucket + np.repeat(ends - width - low, words[filled]), value.astype(np.uint64))
    found = [(0, _EMPTY)] * len(rows)
    for row, offset, counts in zip(filled.tolist(), (low - _BIAS).tolist(), np.split(flat, ends[:-1]), strict=True):
        found[row] = offset, counts
    return found


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
