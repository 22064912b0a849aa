"""Do tasks, threads or descriptors pile up? The statistics of memory leaks, on counts.

Counts need no sampling error and often come with less: a program that runs for ten seconds gives twenty readings, a
service watched for a day a thousand. So blocks are up to BLOCKS_MAX equal runs of readings, however long they last,
and what decides is the number of readings and the significance, never the clock.

Where ages are known (tasks) the accusation rests on what stays, as for memory (leaks/age.py): with M the sum of ages,
dM/dt is the number of those that stay, and tasks that come and go add nothing however many they are. Where only
counts are known (threads, descriptors) what has been taken must not come back instead: a rise that falls by more than
a fifth of itself between blocks is load.

Pure arithmetic and wording.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..leaks import guards, trend
from ..leaks.verdict import JUMP_SHARE, LEVELLING_LOG_ODDS, TAIL_HALF, TAIL_THIRD, WANDER_P
from ..leaks.wording import chance_text, percent_text, time_text
from ..model.heap import F64, I64
from ..model.leak import Evidence, Rate
from .wording import amount_text, rate_text

READINGS_MIN = 8
"""With eight readings the least p is 2e-4: enough for a handful of rising columns, and nothing more."""
BLOCKS_MAX = 20
WARM_UP_SHARE = 0.25
"""Of a process's life: pools, caches and connections fill."""
FALSE_DISCOVERY = 0.01
"""Stricter than for memory: findings are asked for again and again, and nobody asked about this one."""
GROWTH_SHARE = 0.1
"""Less than this part of what was there is not worth a person's time."""
TAIL_QUARTER = 0.6
"""Counts are exact, so a pool that has just become full shows in the last quarter. (One that fills evenly and is full
in the last tenth of the window cannot be told from a leak by anybody.)"""
STAYS_SHARE = 0.5
"""Of the growth, at least this part must be what stays."""
FALL_SHARE = 0.2
"""A rise that falls back by more than this part of itself between blocks is load."""
OLDEST_SHARE = 0.5
"""The oldest must have aged by at least this part of the time."""
LOAD_FACTOR = 2.0
"""Counts must have risen by so many times the relative rise of the load."""
LOAD_UNKNOWN = 1.25
"""Where neither ages nor load are known, load may well have doubled: counts must have risen to 3.5 times of what they
were, or an ordinary morning is called a leak (four in ten of the ramps of tests/support/count_curves.py at 0.5)."""


@dataclass(frozen=True)
class Readings:
    """One process. times_s (T,) ascending; counts (T, N), one column per thing that may pile up.

    age_mass (T, N): sum of ages, seconds. oldest_s (T, N): age of the oldest. None where ages are not known.
    load: gives requests per second (T,), or None when they are not known; asked only about what grows otherwise.
    """

    times_s: F64
    counts: F64
    age_mass: F64 | None = None
    oldest_s: F64 | None = None
    load: Callable[[], F64 | None] | None = None

    def __len__(self) -> int:
        return len(self.times_s)


@dataclass(frozen=True)
class Growth:
    """What is claimed about one column. leaks: every test agrees. first, last: counts at the first and last reading,
    seconds apart. rate: per second."""

    leaks: bool
    first: float
    last: float
    seconds: float
    rate: Rate
    p: float
    evidence: tuple[Evidence, ...] = field(repr=False)


def after_warm_up(at_ns: I64, born_ns: int) -> NDArray[np.intp]:
    """Indices of the readings (ascending times, shape (T,)) behind the first quarter of a life."""
    if not len(at_ns):
        return np.zeros(0, dtype=np.intp)
    born_ns = min(born_ns, int(at_ns[0])) if born_ns else int(at_ns[0])
    return np.flatnonzero(at_ns >= born_ns + WARM_UP_SHARE * (int(at_ns[-1]) - born_ns))


def judge(readings: Readings, least: F64) -> list[Growth | None]:
    """One per column; None for what did not grow by `least` (N,), or when there are fewer than READINGS_MIN."""
    columns = readings.counts.shape[1]
    if len(readings) < READINGS_MIN or not columns:
        return [None] * columns
    blocks = _Blocks.of(readings)
    tested = blocks.retained if blocks.retained is not None else blocks.floors
    raw = np.maximum(trend.mann_kendall(blocks.floors)[1], trend.mann_kendall(tested)[1])
    # What never moved cannot be accused and is no test.
    moved = np.flatnonzero(np.ptp(blocks.floors, axis=0) > 0)
    p = np.ones(columns)
    p[moved] = trend.by_adjusted(raw[moved])
    rise = blocks.last - blocks.first
    candidates = np.flatnonzero((rise >= np.maximum(least, GROWTH_SHARE * blocks.first)) & (raw < 0.05))
    found: list[Growth | None] = [None] * columns
    if len(candidates):
        for column, each in zip(candidates.tolist(), _judge(readings, blocks, candidates, raw, p), strict=True):
            found[column] = each
    return found


@dataclass(frozen=True)
class _Blocks:
    """times_s (K,): middles. floors, retained (K, N). first, last (N,): mean floors of the first and the last
    fifth of the blocks. edges (K + 1,): indices of readings."""

    edges: NDArray[np.intp]
    times_s: F64
    floors: F64
    retained: F64 | None
    first: F64
    last: F64

    @classmethod
    def of(cls, readings: Readings) -> _Blocks:
        count = min(BLOCKS_MAX, len(readings) - 1)
        edges = np.round(np.linspace(0, len(readings) - 1, count + 1)).astype(np.intp)
        at = readings.times_s[edges]
        floors = trend.floors(readings.counts, edges[:-1])
        few = max(1, count // 5)
        retained = None
        if readings.age_mass is not None:
            retained = np.diff(readings.age_mass[edges], axis=0) / np.diff(at)[:, None]
        return cls(
            edges, (at[1:] + at[:-1]) / 2, floors, retained, floors[:few].mean(axis=0), floors[-few:].mean(axis=0)
        )

    @property
    def seconds(self) -> float:
        return float(self.times_s[-1] - self.times_s[0])


def _judge(readings: Readings, blocks: _Blocks, columns: NDArray[np.intp], raw: F64, p: F64) -> list[Growth]:
    times, floors = blocks.times_s, blocks.floors[:, columns]
    kept = floors if blocks.retained is None else blocks.retained[:, columns]
    line = trend.line(times, floors)
    wander = trend.line(times, kept).p
    levelling, step = guards.odds_against_levelling(times, kept), guards.odds_against_step(times, kept)
    jump = guards.largest_jump_share(kept)
    tails = [guards.tail_share(times, kept, part) for part in (1 / 2, 1 / 3, 1 / 4)]
    load: F64 | None = None
    is_asked = readings.load is None
    found = []
    for index, column in enumerate(columns.tolist()):
        first, last = float(blocks.first[column]), float(blocks.last[column])
        evidence = [
            _trend(len(floors), blocks.seconds, float(raw[column]), float(p[column])),
            _wander(float(wander[index])),
            _levelling(float(levelling[index])),
            _step(float(step[index]), float(jump[index])),
            _tail([float(each[index]) for each in tails]),
            _stays(kept[:, index], last - first) if blocks.retained is not None else _falls(floors[:, index]),
        ]
        if readings.oldest_s is not None:
            evidence.append(_oldest(readings.oldest_s[blocks.edges[[0, -1]], column], blocks.seconds))
        # Reading the load costs as much as all the rest, so only what would be told otherwise is held against it.
        if readings.load is not None and not is_asked and all(each.supports_leak for each in evidence):
            load, is_asked = readings.load(), True
        if load is not None or blocks.retained is None:
            evidence.append(_load(load, first, last))
        rate = Rate(float(line.slope[index]), float(line.low[index]), float(line.high[index]))
        leaks = all(each.supports_leak for each in evidence)
        start, end = readings.counts[[0, -1], column].tolist()
        seconds = float(readings.times_s[-1] - readings.times_s[0])
        found.append(Growth(leaks, start, end, seconds, rate, float(p[column]), tuple(evidence)))
    return found


def _trend(blocks: int, seconds: float, raw: float, p: float) -> Evidence:
    return Evidence(
        "trend",
        p <= FALSE_DISCOVERY,
        f"It rises from block to block ({blocks} blocks of {time_text(seconds / (blocks - 1))}): Mann-Kendall "
        f"{chance_text(raw)}, {chance_text(p)} after correction for all that was tested "
        f"(at most {FALSE_DISCOVERY:g}).",
    )


def _wander(p: float) -> Evidence:
    return Evidence(
        "noise",
        p < WANDER_P,
        f"What only wanders, as a pool or a backlog does, would rise this steadily with {chance_text(p)} "
        f"(at most {WANDER_P:g}).",
    )


def _levelling(odds: float) -> Evidence:
    return Evidence(
        "warm-up",
        odds > LEVELLING_LOG_ODDS,
        f"A straight line explains it {_factor(odds)} times {'as well as' if odds >= 0 else 'worse than'} a curve "
        "that levels off.",
    )


def _step(odds: float, jump: float) -> Evidence:
    return Evidence(
        "step",
        odds > 0 and jump < JUMP_SHARE,
        f"The largest single rise is {percent_text(jump) if np.isfinite(jump) else 'all'} of the whole (less than "
        f"{percent_text(JUMP_SHARE)}), and one step explains it {_factor(odds)} times "
        f"{'worse' if odds > 0 else 'better'} than a line.",
    )


def _tail(shares: Sequence[float]) -> Evidence:
    least = (TAIL_HALF, TAIL_THIRD, TAIL_QUARTER)
    half, third, quarter = (percent_text(share) for share in shares)
    return Evidence(
        "tail",
        all(share > bound for share, bound in zip(shares, least, strict=True)),
        f"In the last half it grows at {half} of the overall rate, in the last third at {third}, in the last quarter "
        f"at {quarter} (more than {', '.join(percent_text(bound) for bound in least)}).",
    )


def _stays(retained: F64, rise: float) -> Evidence:
    few = max(1, len(retained) // 5)
    stay = float(retained[-few:].mean() - retained[:few].mean())
    share = min(max(stay / rise, 0.0), 1.0) if rise > 0 else 0.0
    return Evidence("stays", share >= STAYS_SHARE, f"{percent_text(share)} of the growth stays and grows old.")


def _falls(floors: F64) -> Evidence:
    fall = float((np.maximum.accumulate(floors) - floors).max())
    rise = float(floors[-1] - floors[0])
    share = fall / rise if rise > 0 else float("inf")
    shown = percent_text(share) if np.isfinite(share) else "all"
    return Evidence(
        "stays",
        share <= FALL_SHARE,
        f"It fell back by {shown} of its rise at most (no more than {percent_text(FALL_SHARE)}).",
    )


def _oldest(ends: F64, seconds: float) -> Evidence:
    older = float(ends[-1] - ends[0])
    return Evidence(
        "age",
        older >= OLDEST_SHARE * seconds,
        f"The oldest is {time_text(max(float(ends[-1]), 0.0))} old, {time_text(abs(older))} "
        f"{'more' if older >= 0 else 'less'} than at the beginning.",
    )


def _load(load: F64 | None, first: float, last: float) -> Evidence:
    grown = (last / first - 1) if first > 0 else float("inf")
    counts = f"from {amount_text(first)} to {amount_text(last)}"
    if load is None:
        return Evidence(
            "load",
            grown > LOAD_FACTOR * LOAD_UNKNOWN,
            f"The load is not known, so the count must have risen to {1 + LOAD_FACTOR * LOAD_UNKNOWN:g} times of what "
            f"it was; it went {counts}.",
        )
    third = max(1, len(load) // 3)
    before, after = float(load[:third].mean()), float(load[-third:].mean())
    more = max(after / before - 1 if before > 0 else 0.0, 0.0)
    return Evidence(
        "load",
        grown > LOAD_FACTOR * more,
        f"The load went from {amount_text(before)} to {amount_text(after)} requests per second, the count {counts}.",
    )


def _factor(odds: float) -> str:
    factor = float(np.exp(min(abs(odds), 14)))
    return f"{factor:.1f}" if factor < 10 else (f"{factor:.0f}" if factor < 1e6 else "over a million")


def growth_text(growth: Growth) -> str:
    """Such as "from 12 to 240 in 5 min (46 per minute, 95 % between 44 and 48)"."""
    return (
        f"from {amount_text(growth.first)} to {amount_text(growth.last)} in {time_text(growth.seconds)} "
        f"({rate_text(growth.rate)})"
    )
