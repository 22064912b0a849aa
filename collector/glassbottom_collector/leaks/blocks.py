"""A window of snapshots, reduced to about twenty blocks per site: all that the tests need, and little enough to keep
for every process of a service.

Blocks begin and end at snapshots, have equal numbers of intervals, and end with the newest snapshot; intervals that
do not fill a block are left out at the beginning, where a warm-up would be.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..model.heap import F64, I64, HeapSeries
from . import thinning
from .age import age_mass, retained
from .sites import Grouping

# Twenty points are enough for p values down to 1e-18 and keep several snapshots in a block of an hour's window.
BLOCKS_MAX = 20
# With ten, the least p is 3e-7: enough to accuse one site among thousands.
BLOCKS_MIN = 10
# Sums of doubles in another order.
NOTHING_SHARED = 1.0001


@dataclass(frozen=True)
class Blocks:
    """K blocks of one process, or of several summed. Amounts per site have shape (N,), per block and site (K, N).

    retained, retained_objects: see age.py. floors: least live bytes. *_first, *_last: at the beginning and the end.
    weight_last: bytes that one more or one less sample would change; 0 when every allocation is counted.
    minutes: distinct minutes of birth among what is alive.
    """

    instance_ids: tuple[str, ...]
    edges_ns: I64
    retained: F64
    retained_objects: F64
    floors: F64
    live_first: F64
    live_last: F64
    variance_last: F64
    objects_last: F64
    samples_last: F64
    minutes_first: F64
    minutes_last: F64

    @property
    def times_s(self) -> F64:
        """Middle of each block, seconds from the first edge."""
        edges = self.edges_s
        middle: F64 = (edges[1:] + edges[:-1]) / 2
        return middle

    @property
    def edges_s(self) -> F64:
        """Edges, seconds from the first."""
        edges: F64 = (self.edges_ns - self.edges_ns[0]) / 1e9
        return edges

    @property
    def seconds(self) -> float:
        """Length of all blocks together."""
        return float(self.edges_ns[-1] - self.edges_ns[0]) / 1e9

    @property
    def weight_last(self) -> F64:
        """Bytes per sample at the end, from the variance."""
        return np.divide(
            self.variance_last, self.live_last, out=np.zeros_like(self.live_last), where=self.live_last > 0
        )


def until(blocks: Blocks, count: int) -> Blocks:
    """The first `count` blocks: what was known when they ended. What lives at the end is then the last floor, and what
    it consists of is taken to be as at the real end."""
    live = blocks.floors[count - 1]
    share = np.divide(live, blocks.live_last, out=np.zeros_like(live), where=blocks.live_last > 0)
    return replace(
        blocks,
        edges_ns=blocks.edges_ns[: count + 1],
        retained=blocks.retained[:count],
        retained_objects=blocks.retained_objects[:count],
        floors=blocks.floors[:count],
        live_last=live,
        variance_last=blocks.variance_last * share,
        objects_last=blocks.objects_last * share,
        samples_last=blocks.samples_last * share,
    )


def edges_of(at_ns: I64) -> I64 | None:
    """Edges of blocks over these snapshots, or None when there are too few (BLOCKS_MIN intervals)."""
    intervals = len(at_ns) - 1
    if intervals < BLOCKS_MIN:
        return None
    step = -(-intervals // BLOCKS_MAX)
    step = step if intervals // step >= BLOCKS_MIN else intervals // BLOCKS_MIN
    return at_ns[::-1][: (intervals // step) * step + 1 : step][::-1]


def reduce(series: HeapSeries, sites: Grouping, edges_ns: I64) -> Blocks:
    """Blocks of one process, without the steps that are the sampler's own (thinning.py). Between snapshots the age mass
    is interpolated and live bytes are carried forward."""
    window = _Window.of(series, edges_ns)
    first, last = window.first, int(window.rows.before[-1])
    live = sites.sums(series.live_bytes[first : window.rows.after[-1] + 1])
    starts = window.rows.before[:-1] - first
    floors = np.minimum.reduceat(live, starts, axis=0)
    # No more can stay than lives. What seems to was carried along: a block that grows and keeps its birth has, all at
    # once, the age mass of its new size.
    most = np.maximum(np.maximum.reduceat(live, starts, axis=0), live[window.rows.after[1:] - first])
    return Blocks(
        instance_ids=(series.instance_id,),
        edges_ns=edges_ns,
        retained=np.minimum(window.retained(series.live_bytes, series.live_bytes_variance, sites), most),
        retained_objects=window.retained(series.live_objects, series.live_objects_variance, sites),
        floors=window.relevelled(floors, series.live_bytes_variance, sites),
        live_first=live[0],
        live_last=live[last - first],
        variance_last=group_variance(series, sites, last),
        objects_last=sites.sums(series.live_objects[last]),
        samples_last=sites.sums(series.samples[last].astype(float)),
        minutes_first=sites.greatest(series.birth_minutes[first].astype(float)),
        minutes_last=sites.greatest(series.birth_minutes[last].astype(float)),
    )


def retained_of(series: HeapSeries, groups: Grouping, edges_ns: I64) -> F64:
    """Mean bytes retained in each block by group alone, (K, groups.count)."""
    return _Window.of(series, edges_ns).retained(series.live_bytes, series.live_bytes_variance, groups)


@dataclass(frozen=True)
class _Window:
    """The snapshots of a series that its blocks need: `picked`, ascending."""

    series: HeapSeries
    edges_ns: I64
    rows: _Rows
    first: int
    picked: NDArray[np.intp]
    thinned: list[thinning.Thinning]

    @classmethod
    def of(cls, series: HeapSeries, edges_ns: I64) -> _Window:
        rows = _rows_around(series.at_ns, edges_ns)
        first = int(rows.before[0])
        thinned = thinning.thinnings(series.headers, first, int(rows.after[-1]))
        needed = np.array(thinning.rows_needed(thinned, first), dtype=np.intp)
        return cls(series, edges_ns, rows, first, np.unique(np.concatenate([rows.before, rows.after, needed])), thinned)

    def retained(self, amounts: F64, variances: F64, groups: Grouping) -> F64:
        """Mean amount retained in each block, (K, groups.count), of amounts (T, N) with variances (T, N)."""
        at_ns, picked, share = self.series.at_ns, self.picked, self.rows.share[:, None]
        before, after = np.searchsorted(picked, self.rows.before), np.searchsorted(picked, self.rows.after)
        mass = groups.sums(age_mass(amounts[picked], self.series.birth_mean_ms[picked], at_ns[picked]))
        mass = thinning.unjumped(mass, at_ns, picked, self.thinned, self.first)
        at_edges = mass[before] * (1 - share) + mass[after] * share
        return self.relevelled(retained(at_edges, (self.edges_ns - self.edges_ns[0]) / 1e9), variances, groups)

    def relevelled(self, values: F64, variances: F64, groups: Grouping) -> F64:
        """Block values (K, groups.count) without the sampler's own steps."""
        own = [groups.sums(variances[each.row]) for each in self.thinned]
        return thinning.relevelled(values, self.edges_ns, self.series.at_ns, self.thinned, own)


def pooled(parts: Sequence[Blocks]) -> Blocks:
    """Several processes over the same edges, summed. Distinct minutes of birth are those of the process with most."""
    one = parts[0]
    return Blocks(
        instance_ids=tuple(instance for part in parts for instance in part.instance_ids),
        edges_ns=one.edges_ns,
        retained=sum_of(parts, "retained"),
        retained_objects=sum_of(parts, "retained_objects"),
        floors=sum_of(parts, "floors"),
        live_first=sum_of(parts, "live_first"),
        live_last=sum_of(parts, "live_last"),
        variance_last=sum_of(parts, "variance_last"),
        objects_last=sum_of(parts, "objects_last"),
        samples_last=sum_of(parts, "samples_last"),
        minutes_first=np.stack([part.minutes_first for part in parts]).max(axis=0),
        minutes_last=np.stack([part.minutes_last for part in parts]).max(axis=0),
    )


def widened(blocks: Blocks, count: int) -> Blocks:
    """The same with zeros for sites that were learned later, so that all parts of a service have `count`."""
    missing = count - len(blocks.live_last)
    if not missing:
        return blocks
    changed: dict[str, Any] = {
        field.name: np.pad(value, [(0, 0)] * (value.ndim - 1) + [(0, missing)])
        for field in fields(blocks)
        if field.name != "edges_ns" and isinstance(value := getattr(blocks, field.name), np.ndarray)
    }
    return replace(blocks, **changed)


def sum_of(parts: Sequence[Blocks], name: str) -> F64:
    """Sum of one field."""
    total: F64 = np.sum([getattr(part, name) for part in parts], axis=0)
    return total


def group_variance(series: HeapSeries, sites: Grouping, row: int) -> F64:
    """Variance of each site's live bytes at one snapshot, (N,).

    Call paths caught by the same sampling window share its luck, so their variances do not simply add. Shared
    windows only make covariances positive, hence

        sum of variances  <=  variance of the sum  <=  least of (sum of standard errors) squared, variance of the heap

    and the upper bound is used. Where the variance of the heap is no more than the sum of all variances, nothing was
    caught together (what is watched all the time shares no windows), and the sum is exact.
    """
    variance = series.live_bytes_variance[row]
    apart = sites.sums(variance)
    if series.headers[row].live_bytes_variance <= NOTHING_SHARED * float(variance.sum()):
        return apart
    together = sites.sums(np.sqrt(variance)) ** 2
    return np.maximum(apart, np.minimum(together, series.headers[row].live_bytes_variance))


@dataclass(frozen=True)
class _Rows:
    """For each edge the snapshot at or before it, the one at or after it, and how far between it lies."""

    before: NDArray[np.intp]
    after: NDArray[np.intp]
    share: F64


def _rows_around(at_ns: I64, edges_ns: I64) -> _Rows:
    before = np.clip(np.searchsorted(at_ns, edges_ns, side="right") - 1, 0, len(at_ns) - 1)
    after = np.where(at_ns[before] >= edges_ns, before, np.minimum(before + 1, len(at_ns) - 1))
    gap = (at_ns[after] - at_ns[before]).astype(float)
    share = np.clip(np.divide(edges_ns - at_ns[before], gap, out=np.zeros(len(edges_ns)), where=gap > 0), 0, 1)
    return _Rows(before, after, share)
