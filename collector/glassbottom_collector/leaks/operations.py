"""What stays of each operation: growth by the route that was served, over how many of them ended.

The route is known where it matters: the sampler notes with every sample which request was being served, so growth
divides by routes without any model. Beside it stands what counts alone would say (regression.py), as a check; and where
no route was noted, in its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..model.heap import F64, I64, HeapSeries
from ..model.leak import Evidence, PerOperation, Rate
from ..model.process import Span
from ..model.timing import OperationKind
from ..storage import Reader
from . import regression, trend
from .blocks import retained_of
from .sites import Grouping, SiteMap
from .wording import bytes_text, percent_text

# Routes that carry less of a site's growth are not told.
SHARE_MIN = 0.05
TOLD_MAX = 5
# Operations the counts of which may explain growth: the most frequent.
CANDIDATES_MAX = 12
ENDED_MIN = 20
# The check agrees when the two are no further apart.
AGREES_FACTOR = 1.5
_FALLBACKS = (OperationKind.COROUTINE, OperationKind.FUNCTION)
_Key = tuple[OperationKind, str]


@dataclass
class RouteGrowth:
    """Bytes retained by site and route in each block of one analysis; processes are added up as they come."""

    edges_ns: I64
    columns: dict[tuple[int, str], int] = field(default_factory=dict)
    _parts: list[F64] = field(default_factory=list)

    def add(self, series: HeapSeries, sites: SiteMap) -> None:
        """One process of the analysis, whose call paths have been learned."""
        labels = [sites.label(stack) for stack in series.stacks.tolist()]
        chosen = np.flatnonzero([bool(label) for label in labels])
        if not len(chosen):
            return
        positions = sites.columns(series.stacks[chosen]).tolist()
        keys = zip(positions, (label for label in labels if label), strict=True)
        columns = np.array([self.columns.setdefault(key, len(self.columns)) for key in keys], dtype=np.intp)
        self._parts.append(retained_of(series, Grouping(columns, len(self.columns), chosen), self.edges_ns))

    def of(self, site: int) -> dict[str, F64]:
        """Bytes retained in each block, (K,), by route."""
        found = {}
        for (position, label), column in self.columns.items():
            if position == site:
                found[label] = np.sum([part[:, column] for part in self._parts if column < part.shape[1]], axis=0)
        return found


@dataclass(frozen=True)
class Counted:
    """Operations that ended in the processes of an analysis: per second, by name; and cumulated at the middle of each
    block, (K, R), of the names in `candidates`."""

    per_second: Mapping[str, float]
    candidates: tuple[str, ...]
    cumulated: F64


def count(reader: Reader, service: str, instance_ids: Sequence[str], edges_ns: I64) -> Counted:
    """Entry spans; where there are none, coroutines and functions. Raises what the reader raises."""
    blocks = []
    rates: dict[_Key, float] = {}
    for first, last in zip(edges_ns[:-1].tolist(), edges_ns[1:].tolist(), strict=True):
        block: dict[_Key, float] = {}
        for instance in instance_ids:
            found = reader.operation_totals(service, Span(first + 1, last + 1), instance).get(instance)
            if found is None or found.to_ns <= found.from_ns:
                continue
            # Intervals seldom begin and end where blocks do; what counts is how many there are in a second.
            share = (last - first) / (found.to_ns - found.from_ns)
            for row in found.rows:
                if not row.route and row.kind is not OperationKind.STEP:
                    ended = (row.kind, row.name)
                    block[ended] = block.get(ended, 0.0) + row.duration.count * share
        blocks.append(block)
        for key, value in block.items():
            rates[key] = rates.get(key, 0.0) + value
    seconds = float(edges_ns[-1] - edges_ns[0]) / 1e9
    wanted = {OperationKind.SPAN} if any(kind is OperationKind.SPAN for kind, _ in rates) else set(_FALLBACKS)
    often = sorted((key for key in rates if key[0] in wanted and rates[key] >= ENDED_MIN), key=lambda key: -rates[key])
    candidates = tuple(often[:CANDIDATES_MAX])
    in_block = np.array([[block.get(key, 0.0) for key in candidates] for block in blocks]).reshape(len(blocks), -1)
    per_second: dict[str, float] = {}
    for (kind, name), value in rates.items():
        if kind in wanted:
            per_second[name] = per_second.get(name, 0.0) + value / seconds
    names = tuple(name for _, name in candidates)
    return Counted(per_second, names, np.cumsum(in_block, axis=0) - in_block / 2)


@dataclass(frozen=True)
class Priced:
    """What stays of each operation, most growth first, and the sentence about it."""

    operations: tuple[PerOperation, ...]
    evidence: Evidence | None


def price(
    times_s: F64,
    kept: F64,
    rate: Rate,
    objects_per_byte: float,
    weight: float,
    routes: Mapping[str, F64],
    counted: Counted,
) -> Priced:
    """times_s, kept: the site's blocks, (K,). rate: its growth. weight: bytes that one sample stands for. routes: its
    retained bytes by route, each (K,)."""
    seconds = float(times_s[-1] - times_s[0]) * len(times_s) / max(len(times_s) - 1, 1)
    attributed = _attributed(times_s, rate, objects_per_byte, weight, routes, counted, seconds)
    regressed = _regressed(kept, objects_per_byte, counted, seconds)
    if attributed:
        return Priced(tuple(attributed), _agreement(attributed, regressed, rate, counted))
    if regressed is None:
        return Priced((), None)
    if not regressed:
        shown = ", ".join(counted.candidates[:3])
        return Priced(
            (),
            Evidence("operations", True, f"Which operation it grows with cannot be told: {shown} went on alike."),
        )
    sentence = "By regression on how many ended: " + _list(regressed) + "; no route was noted at birth."
    return Priced(tuple(regressed), Evidence("operations", True, sentence))


def _attributed(
    times_s: F64,
    rate: Rate,
    objects_per_byte: float,
    weight: float,
    routes: Mapping[str, F64],
    counted: Counted,
    seconds: float,
) -> list[PerOperation]:
    names = [name for name in routes if counted.per_second.get(name, 0.0) > 0]
    if not names or rate.per_second <= 0:
        return []
    line = trend.line(times_s, np.stack([routes[name] for name in names], axis=1))
    # Births are carried along by blocks that grow in place: then the site's rate is that of its live bytes.
    total = float(np.sum([trend.slope(times_s, each[:, None])[0] for each in routes.values()]))
    factor = min(rate.per_second / total, 1.0) if total > 0 else 1.0
    found = []
    for index, name in enumerate(names):
        slope = float(line.slope[index]) * factor
        if slope < SHARE_MIN * rate.per_second:
            continue
        error = 1.96 * (1.2 * slope * weight / seconds) ** 0.5
        low, high = float(line.low[index]) * factor, float(line.high[index]) * factor
        low, high = min(low, slope - error), max(high, slope + error)
        each = counted.per_second[name]
        found.append(
            PerOperation(
                name,
                slope / each,
                max(low, 0.0) / each,
                high / each,
                slope * objects_per_byte / each,
                round(each * seconds),
                attributed=True,
            )
        )
    return sorted(found, key=lambda one: -one.bytes * one.operations)[:TOLD_MAX]


def _regressed(kept: F64, objects_per_byte: float, counted: Counted, seconds: float) -> list[PerOperation] | None:
    """None when nothing was counted; empty when several explain the growth alike."""
    if not counted.candidates:
        return None
    fit = regression.fit(kept, counted.cumulated)
    grown = fit.value * np.ptp(counted.cumulated, axis=0)
    found = [
        PerOperation(
            name,
            float(fit.value[index]),
            float(fit.low[index]),
            float(fit.high[index]),
            float(fit.value[index]) * objects_per_byte,
            round(counted.per_second[name] * seconds),
            attributed=False,
        )
        for index, name in enumerate(counted.candidates)
        if fit.needed[index] and fit.low[index] > 0 and grown[index] >= SHARE_MIN * grown.sum()
    ]
    return sorted(found, key=lambda one: -one.bytes * one.operations)[:TOLD_MAX]


def _agreement(
    attributed: Sequence[PerOperation], regressed: Sequence[PerOperation] | None, rate: Rate, counted: Counted
) -> Evidence:
    first = attributed[0]
    share = sum(one.bytes * counted.per_second[one.operation] for one in attributed) / rate.per_second
    sentence = f"{percent_text(min(share, 1.0))} of the growth was allocated for {_list(attributed)}"
    other = next((one for one in regressed or () if one.operation == first.operation), None)
    if other is not None:
        near = 1 / AGREES_FACTOR <= other.bytes / first.bytes <= AGREES_FACTOR
        sentence += (
            f"; regression on how many ended {'agrees' if near else 'says otherwise'} "
            f"({bytes_text(other.bytes)}, 95 %: {bytes_text(other.bytes_low)} to {bytes_text(other.bytes_high)})"
        )
    elif regressed:
        sentence += f"; regression on how many ended says otherwise ({_list(regressed)})"
    elif regressed is not None:
        sentence += "; counts alone could not tell, since operations went on alike"
    return Evidence("operations", True, sentence + ".")


def _list(operations: Sequence[PerOperation]) -> str:
    return ", ".join(f"{one.operation} ({bytes_text(one.bytes)} each)" for one in operations)
