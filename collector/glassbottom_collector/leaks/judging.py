"""Who is accused: the tests over all columns of a service, by process and in their sum, corrected for their number.

A column is an allocation site, or a group of them (groups.py); each kind is corrected for its own number, so that
looking at groups as well costs a site nothing. Columns are the same in every analysis.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ..model.heap import F64
from ..model.leak import Rate, Verdict
from . import trend, verdict
from .blocks import Blocks
from .plan import Life
from .verdict import Judgement, Screened

# Worst first.
ORDER = {Verdict.LEAK: 0, Verdict.GROWING: 1, Verdict.UNCLEAR: 2, Verdict.STABLE: 3}


@dataclass(frozen=True)
class Screen:
    """One way to look at the columns: the sum of the processes (life None), or one life."""

    life: Life | None
    blocks: Blocks
    screened: Screened

    @classmethod
    def of(cls, life: Life | None, blocks: Blocks) -> Screen:
        """With the cheap tests made."""
        return cls(life, blocks, verdict.screen(blocks))


@dataclass(frozen=True)
class Judged:
    """analysis: position of the screen in which it was judged, before other processes were added; -1: in none."""

    column: int
    judgement: Judgement
    instance_ids: tuple[str, ...]
    analysis: int = -1


def judge_all(screens: Sequence[Screen], always: NDArray[np.bool_] | None = None) -> list[Judged]:
    """Verdicts on all columns that look suspicious, and on those of `always` (N,), worst first."""
    if not screens:
        return []
    count = screens[0].blocks.retained.shape[1]
    raw_retained, best = _least([each.screened.p_retained for each in screens])
    raw_live, _ = _least([each.screened.p_live for each in screens])
    present = np.zeros(count, dtype=bool)
    for each in screens:
        present |= (each.blocks.floors.max(axis=0) > 0) | (each.blocks.live_last > 0)
    p_retained, p_live = np.ones(count), np.ones(count)
    p_retained[present], p_live[present] = (trend.by_adjusted(raw[present]) for raw in (raw_retained, raw_live))
    grew = np.zeros(count, dtype=bool)
    for each in screens:
        grew |= (each.screened.retained > 0) | (each.screened.growth > 0)
    suspicious = (raw_retained < verdict.SUSPICION_P) | (p_retained <= verdict.FALSE_DISCOVERY)
    wanted = present & grew & (suspicious | (p_live <= verdict.FALSE_DISCOVERY))
    if always is not None:
        wanted |= always & present
    judged: list[Judged] = []
    for number, screen in enumerate(screens):
        rows = np.flatnonzero(wanted & (best == number))
        verdicts = verdict.judge(
            screen.blocks, rows, p_retained[rows], p_live[rows], raw_retained[rows], int(present.sum())
        )
        judged.extend(
            _over_processes(screens, number, int(row), each) for row, each in zip(rows, verdicts, strict=True)
        )
    return sorted(judged, key=rank_of)


def rank_of(judged: Judged) -> tuple[int, float]:
    """Worst first, and then by growth."""
    return ORDER[judged.judgement.verdict], -judged.judgement.bytes_rate.per_second


def _least(columns: Sequence[F64]) -> tuple[F64, NDArray[np.intp]]:
    """Least p of each column over analyses, corrected for having looked so often (Bonferroni), and where it was."""
    stacked = np.stack(columns)
    best = stacked.argmin(axis=0)
    return np.minimum(stacked.min(axis=0) * len(columns), 1.0), best


def _over_processes(screens: Sequence[Screen], number: int, row: int, judgement: Judgement) -> Judged:
    """Adds up the processes in which the column grows, unless the judgement is on their sum already."""
    screen = screens[number]
    growing = [
        each
        for each in screens
        if each.life is not None
        and each.screened.p_retained[row] < verdict.CANDIDATE_P
        and each.screened.retained[row] > 0
    ]
    names = tuple(dict.fromkeys(each.life[0] for each in growing if each.life is not None))
    if screen.life is None:
        return Judged(row, judgement, names or screen.blocks.instance_ids, number)
    others = {each.life[0]: each for each in growing if each.life is not None and each.life[0] != screen.life[0]}
    if others:
        rates = [
            verdict.judge(each.blocks, np.array([row]), np.ones(1), np.ones(1), each.screened.p_retained[[row]], 1)[0]
            for each in others.values()
        ]
        judgement = replace(
            judgement,
            bytes_rate=sum_of([judgement.bytes_rate, *(each.bytes_rate for each in rates)]),
            objects_rate=sum_of([judgement.objects_rate, *(each.objects_rate for each in rates)]),
        )
    return Judged(row, judgement, tuple(dict.fromkeys((screen.life[0], *names))), number)


def sum_of(rates: Sequence[Rate]) -> Rate:
    """Sum of independent rates."""
    total = sum(rate.per_second for rate in rates)
    below = sum((rate.per_second - rate.low) ** 2 for rate in rates) ** 0.5
    above = sum((rate.high - rate.per_second) ** 2 for rate in rates) ** 0.5
    return Rate(total, total - below, total + above)
