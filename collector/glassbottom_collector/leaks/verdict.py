"""From blocks to a verdict with its evidence: all thresholds of the leak analysis, each with its reason.

Two series are tested per site. `retained` (age.py) carries the accusation; `floors` of the live bytes say whether the
site grows at all, by whatever cause. A site is called a leak only when every test agrees; each guard that does not
agree is named, and says what would change the verdict.

Pure arithmetic and wording; detector.py fetches the data and puts the report together.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..model.heap import F64
from ..model.leak import Evidence, Rate, Verdict
from . import confirm, guards, trend
from .blocks import Blocks
from .wording import bytes_text, chance_text, percent_text, rate_text, time_text

# False discoveries tolerated among the sites accused (after correction for the number of sites).
FALSE_DISCOVERY = 0.05
# Before correction: what is worth a closer look, and what is worth the word "unclear".
CANDIDATE_P = 0.05
SUSPICION_P = 0.001
# A series that wanders (a pool, a backlog) is monotone by luck far more often than Mann-Kendall believes; fitted in
# noise that may be a random walk, it reaches this level two times in a hundred.
WANDER_P = 0.01
# A straight line may be this much less likely than one that levels off (log odds; 1 to 4.5), because the tail is
# tested as well. Chosen on tuning seeds: at 0 a tenth of the leaks that come in bursts is missed, at -3 two warm-ups
# in a hundred are accused.
LEVELLING_LOG_ODDS = -1.5
# One jump with half of the whole rise is a step: a deployment, a table loaded.
JUMP_SHARE = 0.5
# How steep the last half and the last third must be, relative to the whole; and not only as they look, but less so many
# standard deviations of what samples show: of n samples of growth n/2 are expected in a half and n/3 in a third.
TAIL_HALF, TAIL_THIRD = 0.5, 0.4
TAIL_DEVIATIONS = 1.0
# Live bytes must rise by at least this part of what is retained, or the accusation rests on ages alone.
LIVE_SHARE = 0.25
# Of the growth of live bytes, at least this part must be memory that stays.
RETAINED_SHARE = 0.25
# Births are carried along when what is retained exceeds what lives by this part of the growth; blocks differ by less.
CARRIED_SHARE = 0.3
# Less than this many samples of growth, or of the whole, is chance, or a cache of which nobody can tell whether it
# levels off; less than this share of the site is not worth a person's time. Samples that were caught together (a
# session of 2 MB all of whose blocks fall into one window) count as one, and of such there need not be as many: a leak
# in large pieces would otherwise be unclear for minutes.
GROWTH_SAMPLES, GROWTH_SHARE = 30.0, 0.02
INDEPENDENT_SAMPLES = 8.0
# A tail this flat, relative to the whole, has stopped growing.
FLAT_SHARE = 0.2
# In windows this long a leak has births in several minutes.
MINUTES_SECONDS, MINUTES_GAINED = 300.0, 3.0
# The slope of a sum of independent births, fitted by a line, has a variance of 6/5 of that of its two ends.
_WALK_SLOPE_FACTOR = 1.2


@dataclass(frozen=True)
class Screened:
    """The cheap tests for all sites of one analysis, shape (N,). p values are one-sided, exact, not corrected.
    growth: of the live bytes' floors; retained: of the retained bytes."""

    p_retained: F64
    p_live: F64
    growth: F64
    retained: F64


@dataclass(frozen=True)
class Judgement:
    """What is claimed about one site. own_rate: of what was judged, before other processes are added up. kept_rate: of
    what stays, whatever the verdict. straight: how straight it is for certain, see _Facts."""

    verdict: Verdict
    bytes_rate: Rate
    objects_rate: Rate
    p: float
    evidence: tuple[Evidence, ...]
    would_change: str
    own_rate: Rate
    kept_rate: Rate
    straight: float


def screen(blocks: Blocks) -> Screened:
    """Tests every site for growth of what is retained and of what lives."""
    third = max(2, len(blocks.retained) // 3)
    rise = blocks.retained[-third:].mean(axis=0) - blocks.retained[:third].mean(axis=0)
    return Screened(
        p_retained=trend.mann_kendall(blocks.retained)[1],
        p_live=trend.mann_kendall(blocks.floors)[1],
        growth=blocks.floors[-third:].mean(axis=0) - blocks.floors[:third].mean(axis=0),
        retained=rise,
    )


def judge(
    blocks: Blocks,
    rows: NDArray[np.intp],
    p_retained: F64,
    p_live: F64,
    raw_retained: F64,
    sites: int,
    deviations: float = TAIL_DEVIATIONS,
) -> list[Judgement]:
    """Verdicts for some sites (`rows`) of one analysis, in that order.

    p_retained, p_live, raw_retained: for these rows; corrected for all `sites`, corrected, and not corrected.
    deviations: of what samples show, by which the tail must be steep enough.
    """
    if not len(rows):
        return []
    measures = _measure(blocks, rows)
    return [
        _judge_one(
            _Facts(blocks, int(row), measures, index, deviations),
            p_retained[index],
            p_live[index],
            raw_retained[index],
            sites,
        )
        for index, row in enumerate(rows)
    ]


@dataclass(frozen=True)
class _Measures:
    retained: trend.Trend
    objects: trend.Trend
    live: trend.Trend
    levelling: F64
    step: F64
    jump: F64
    tail_half: F64
    tail_third: F64
    live_tail: F64
    first_half_p: F64
    second_half_p: F64


def _measure(blocks: Blocks, rows: NDArray[np.intp]) -> _Measures:
    times = blocks.times_s
    kept, live = blocks.retained[:, rows], blocks.floors[:, rows]
    weight = blocks.weight_last[rows]
    objects_per_byte = np.divide(
        blocks.objects_last[rows], blocks.live_last[rows], out=np.zeros(len(rows)), where=blocks.live_last[rows] > 0
    )
    first_half_p, second_half_p = confirm.halves(kept)
    return _Measures(
        retained=_with_sampling_error(trend.line(times, kept), weight, blocks.seconds),
        objects=_with_sampling_error(
            trend.line(times, blocks.retained_objects[:, rows]), weight * objects_per_byte, blocks.seconds
        ),
        live=_with_sampling_error(trend.line(times, live), weight, blocks.seconds),
        levelling=guards.odds_against_levelling(times, kept),
        step=guards.odds_against_step(times, kept),
        jump=guards.largest_jump_share(kept),
        tail_half=guards.tail_share(times, kept, 1 / 2),
        tail_third=guards.tail_share(times, kept, 1 / 3),
        live_tail=guards.tail_share(times, live, 1 / 3),
        first_half_p=first_half_p,
        second_half_p=second_half_p,
    )


def _with_sampling_error(line: trend.Trend, weight: F64, seconds: float) -> trend.Trend:
    """Widens the interval to at least what sampling alone would make it.

    Growth G seen through samples that stand for `weight` each has a variance of G * weight, however straight the line
    happens to look.
    """
    half = 1.96 * np.sqrt(_WALK_SLOPE_FACTOR * np.maximum(line.slope, 0) * weight / seconds)
    return trend.Trend(
        line.slope, np.minimum(line.low, line.slope - half), np.maximum(line.high, line.slope + half), line.p
    )


@dataclass(frozen=True)
class _Facts:
    """One site's numbers, and the tests on them. Each test answers whether it speaks for a leak."""

    blocks: Blocks
    row: int
    measures: _Measures
    index: int
    deviations: float

    @property
    def seconds(self) -> float:
        return self.blocks.seconds

    @property
    def live_last(self) -> float:
        return float(self.blocks.live_last[self.row])

    @property
    def samples(self) -> float:
        return float(self.blocks.samples_last[self.row])

    @property
    def retained_rate(self) -> Rate:
        return _rate(self.measures.retained, self.index)

    @property
    def live_rate(self) -> Rate:
        return _rate(self.measures.live, self.index)

    @property
    def live_growth(self) -> float:
        floors = self.blocks.floors[:, self.row]
        return float(floors[-1] - floors[0])

    @property
    def leak_growth(self) -> float:
        return self.leak_rate.per_second * self.seconds

    @property
    def leak_rate(self) -> Rate:
        """The rate of what stays, unless births are carried along by blocks that grow in place."""
        return self.live_rate if self.births_carried else self.retained_rate

    @property
    def births_carried(self) -> bool:
        """More is retained than lives: blocks grow in place and keep their birth (see age.py)."""
        third = len(self.blocks.retained) // 3
        kept = float(self.blocks.retained[-third:, self.row].mean())
        live = float(self.blocks.floors[-third:, self.row].mean())
        return kept - live > CARRIED_SHARE * max(self.live_growth, 0.0) > 0

    @property
    def objects_rate(self) -> Rate:
        rate = _rate(self.measures.objects, self.index)
        kept = self.retained_rate.per_second
        factor = self.live_rate.per_second / kept if self.births_carried and kept > 0 else 1.0
        return Rate(rate.per_second * factor, rate.low * factor, rate.high * factor)

    def wander(self) -> Evidence:
        p = float(self.measures.retained.p[self.index])
        return Evidence(
            "noise",
            p < WANDER_P,
            f"A site that only wanders, as a pool or a backlog does, would rise this steadily with {chance_text(p)} "
            f"(a leak needs p < {WANDER_P:g}).",
        )

    def confirmation(self) -> Evidence:
        first = float(self.measures.first_half_p[self.index])
        second = float(self.measures.second_half_p[self.index])
        half = time_text(self.seconds / 2)
        return Evidence(
            "confirmation",
            confirm.confirmed(first, second),
            f"Judged apart, the first {half} rise with {chance_text(first)} and the last {half} with "
            f"{chance_text(second)} (a leak needs p < {confirm.HALF_P:g} in both).",
        )

    def warm_up(self) -> Evidence:
        odds = float(self.measures.levelling[self.index])
        more = odds >= 0
        factor = _factor(odds)
        sentence = (
            f"A straight line explains it {factor} times as well as a curve that levels off (warm-up, filling cache)."
            if more
            else f"A curve that levels off (warm-up, filling cache) explains it {factor} times as well as a line."
        )
        return Evidence("warm-up", odds > LEVELLING_LOG_ODDS, sentence)

    def step(self) -> Evidence:
        odds, jump = float(self.measures.step[self.index]), float(self.measures.jump[self.index])
        shown = percent_text(jump) if np.isfinite(jump) else "all"
        return Evidence(
            "step",
            odds > 0 and jump < JUMP_SHARE,
            f"The largest single rise is {shown} of the whole (a step needs {percent_text(JUMP_SHARE)}), and one step "
            f"explains the growth {_factor(odds)} times {'worse' if odds > 0 else 'better'} than a line.",
        )

    def tail(self) -> Evidence:
        half, third = float(self.measures.tail_half[self.index]), float(self.measures.tail_third[self.index])
        half_error, third_error = self.tail_errors
        return Evidence(
            "tail",
            half - self.deviations * half_error > TAIL_HALF and third - self.deviations * third_error > TAIL_THIRD,
            f"In the last half it grows at {percent_text(half)} (± {percent_text(half_error)}) of the overall rate, in "
            f"the last third at {percent_text(third)} (± {percent_text(third_error)}); a leak needs "
            f"{percent_text(TAIL_HALF)} and {percent_text(TAIL_THIRD)} for certain.",
        )

    @property
    def straight(self) -> float:
        """Slope of the last half relative to the whole, less two of its standard deviations: a warm-up with a time
        constant as long as the evidence has 0.76."""
        return float(self.measures.tail_half[self.index]) - 2 * self.tail_errors[0]

    @property
    def tail_errors(self) -> tuple[float, float]:
        """Standard deviations, from sampling alone, of the two slopes relative to the whole: of n samples the share
        that falls into a part p of the time has the variance p (1 - p) / n (binomial)."""
        weight = float(self.blocks.weight_last[self.row])
        n = max(self.leak_growth / weight, 1e-9) if weight > 0 else 1e12
        return min(n**-0.5, 9.0), min((2 / n) ** 0.5, 9.0)

    def age(self) -> Evidence:
        blocks, row = self.blocks, self.row
        live, kept = self.live_growth, self.retained_rate.per_second * self.seconds
        gained = float(blocks.minutes_last[row] - blocks.minutes_first[row])
        share = max(min(kept / live, 1.0) if live > 0 else float(kept > 0), 0.0)
        supports = kept > 0 and share > RETAINED_SHARE
        sentence = (
            f"{percent_text(share)} of the growth is memory that stays"
            if share > RETAINED_SHARE
            else f"Only {percent_text(share)} of the growth is memory that stays, the rest is replaced all the time"
        )
        if self.seconds >= MINUTES_SECONDS:
            supports = supports and gained >= MINUTES_GAINED
            sentence += f"; what lives was born in {max(gained, 0.0):.0f} more minutes than at the beginning"
        return Evidence("age", supports, sentence + ".")

    def live(self) -> Evidence:
        kept = self.leak_growth
        supports = self.live_growth > 0 and self.live_growth >= LIVE_SHARE * kept
        first, last = float(self.blocks.floors[0, self.row]), float(self.blocks.floors[-1, self.row])
        return Evidence(
            "live",
            supports,
            f"The floor of live bytes went from {bytes_text(first)} to {bytes_text(last)}.",
        )

    def enough_samples(self) -> bool:
        live = max(float(self.blocks.live_last[self.row]), 1.0)
        grown = self.samples * min(self.leak_growth / live, 1.0)
        independent = self.leak_growth / max(float(self.blocks.weight_last[self.row]), 1.0)
        if self.samples < GROWTH_SAMPLES:
            return False
        return independent >= GROWTH_SAMPLES or (grown >= GROWTH_SAMPLES and independent >= INDEPENDENT_SAMPLES)

    def size(self) -> Evidence:
        share = self.leak_growth / max(float(self.blocks.live_first[self.row]), 1.0)
        return Evidence(
            "size",
            self.enough_samples() and share >= GROWTH_SHARE,
            f"It grew by {bytes_text(self.leak_growth)} ({percent_text(min(share, 1e4))}) in {time_text(self.seconds)},"
            f" seen in {self.samples:.0f} live samples (at least {GROWTH_SAMPLES:.0f} are needed).",
        )


def _judge_one(facts: _Facts, p_retained: float, p_live: float, raw: float, sites: int) -> Judgement:
    trend_evidence = Evidence(
        "trend",
        p_retained <= FALSE_DISCOVERY,
        f"Retained bytes rise from block to block ({len(facts.blocks.retained)} blocks of "
        f"{time_text(facts.seconds / len(facts.blocks.retained))}): Mann-Kendall {chance_text(raw)}, "
        f"{chance_text(p_retained)} after correction for {sites} sites.",
    )
    guard = {
        each.name: each
        for each in (
            facts.age(),
            facts.wander(),
            facts.confirmation(),
            facts.warm_up(),
            facts.step(),
            facts.tail(),
            facts.live(),
            facts.size(),
        )
    }
    evidence = (trend_evidence, *guard.values())
    agrees = {name: each.supports_leak for name, each in guard.items()}
    verdict = _verdict(facts, p_retained, p_live, raw, agrees)
    grows_by_load = verdict is Verdict.GROWING and not agrees["age"]
    rate = facts.live_rate if grows_by_load or verdict is Verdict.STABLE else facts.leak_rate
    return Judgement(
        verdict=verdict,
        bytes_rate=rate,
        objects_rate=facts.objects_rate,
        p=p_live if grows_by_load else p_retained,
        evidence=evidence,
        would_change=_would_change(facts, verdict, agrees, raw, p_retained),
        own_rate=rate,
        kept_rate=facts.leak_rate,
        straight=facts.straight,
    )


def _verdict(facts: _Facts, p_retained: float, p_live: float, raw: float, agrees: dict[str, bool]) -> Verdict:
    steady = p_retained <= FALSE_DISCOVERY
    if steady and all(agrees.values()):
        return Verdict.LEAK
    others = all(agree for name, agree in agrees.items() if name != "size")
    if (steady or raw < SUSPICION_P) and others and not facts.enough_samples():
        return Verdict.UNCLEAR
    if raw < SUSPICION_P and all(agrees.values()):
        return Verdict.UNCLEAR
    grows = (steady and agrees["age"]) or (p_live <= FALSE_DISCOVERY and facts.live_rate.low > 0)
    still = float(facts.measures.live_tail[facts.index]) > FLAT_SHARE
    worth = facts.live_growth >= GROWTH_SHARE * float(facts.blocks.live_first[facts.row])
    return Verdict.GROWING if grows and still and worth and facts.live_growth > 0 else Verdict.STABLE


def _would_change(facts: _Facts, verdict: Verdict, agrees: dict[str, bool], raw: float, p: float) -> str:
    window = time_text(facts.seconds)
    if verdict is Verdict.LEAK:
        return f"It would no longer be called a leak if it stopped rising for about {time_text(facts.seconds / 3)}."
    if verdict is Verdict.STABLE:
        bound = max(facts.live_rate.high, 0.0)
        return f"A growth slower than {rate_text(bound)} would not be visible in {window}; look at a longer window."
    if verdict is Verdict.UNCLEAR:
        if not facts.enough_samples():
            factor = min(max(GROWTH_SAMPLES / max(facts.samples, 1.0), 1.5), 100.0)
            return (
                f"{GROWTH_SAMPLES:.0f} samples of growth are needed: look again with about "
                f"{time_text(facts.seconds * factor)} of data, or sample more densely."
            )
        # The exponent of p grows at least in proportion to the window.
        factor = min(max(np.log(FALSE_DISCOVERY * raw / max(p, 1e-300)) / np.log(max(raw, 1e-300)), 1.2), 100.0)
        return f"As steady a rise over about {time_text(facts.seconds * factor)} would exclude chance."
    if not agrees["age"]:
        return "A leak if what is there grew old; now it is replaced all the time, as under rising load."
    others = all(agree for name, agree in agrees.items() if name != "confirmation")
    if others and not agrees["confirmation"]:
        return f"A leak if the next {window} show it again."
    if not agrees["warm-up"] or not agrees["tail"]:
        return f"A leak if it goes on in a straight line for another {window}; a warm-up or a cache levels off."
    if not agrees["step"]:
        return "A leak if it rises again without a deployment or a table being loaded."
    return f"A leak if it goes on as steadily for another {window}."


def _rate(line: trend.Trend, index: int) -> Rate:
    return Rate(float(line.slope[index]), float(line.low[index]), float(line.high[index]))


def _factor(odds: float) -> str:
    factor = float(np.exp(min(abs(odds), 14)))
    return f"{factor:.1f}" if factor < 10 else (f"{factor:.0f}" if factor < 1e6 else "over a million")
