"""How often which curve is called a leak, and whether the stated rate is right: ours beside what people use.

    python -m tests.bench.curves --curves 300

Curves are hours of 120 snapshots whose truth is known (tests/support/heap_curves.py), seen through a sampler like ours.
On the same series, in the same run:

* OLS, MK: a straight line by least squares, and Mann-Kendall, on all snapshots, one-sided, p < 0.001.
* threshold: the rule of a monitoring system, ported in short: growth of at least 10 % an hour, and the last third
  at least 0.3 times as steep as the whole.
* ours: the verdict "leak", for a site alone and for one among 1 000 (corrected for all of them).

Thresholds were chosen on seeds below 1 000; the default seed was first used to report. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable, Sequence

import numpy as np
from glassbottom_collector.leaks import looks, trend, verdict
from glassbottom_collector.leaks.blocks import Blocks, edges_of, reduce
from glassbottom_collector.leaks.detector import find_leaks
from glassbottom_collector.leaks.judging import Judged, Screen
from glassbottom_collector.leaks.plan import after_warm_up
from glassbottom_collector.leaks.sites import Grouping
from glassbottom_collector.leaks.verdict import Judgement
from glassbottom_collector.model.heap import Definitions, HeapSeries, SnapshotHeader
from glassbottom_collector.model.leak import Verdict
from glassbottom_collector.model.process import Span

from tests.support.heap_curves import (
    BENIGN,
    KINDS,
    LEAKING,
    Array,
    Curve,
    Observed,
    draw,
    frames_of,
    series_of,
    stack_of,
)
from tests.support.memory_reader import MemoryReader

SEED = 9001
SITES = 1000
TIMES = np.arange(120) * 30.0
ALPHA = 0.001


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the tables and the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", type=int, default=300, help="of each kind (300)")
    parser.add_argument("--seed", type=int, default=SEED, help=f"({SEED})")
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="only these")
    args = parser.parse_args(argv)
    began = time.perf_counter()
    print(f"Called a leak, share of {args.curves} curves of each kind (seed {args.seed}; hours of 120 snapshots)\n")
    print("| curve (truth) | OLS | MK | threshold | **ours, alone** | **ours, 1 of 1 000** | growing | unclear |")
    print("|---|---|---|---|---|---|---|---|")
    rows, rates = {}, {}
    for kind in args.kinds:
        curves = draw(kind, args.curves, TIMES, args.seed)
        rows[kind] = flag_rates(curves, args.seed + 1)
        names = ("ols", "mk", "threshold", "alone", "among", "growing", "unclear")
        print(f"| {kind} | " + " | ".join(_share(rows[kind][name]) for name in names) + " |", flush=True)
        if kind in LEAKING:
            rates[kind] = rate_quality(curves, args.seed + 1)
    print("\nThe stated rate (bytes per second) against the true one, over all curves with a leak\n")
    print("| curve | median relative error | 95 % interval covers | half-width / rate | block bootstrap covers |")
    print("|---|---|---|---|---|")
    for kind, row in rates.items():
        print(f"| {kind} | {row['error']:.3f} | {row['covers']:.3f} | {row['width']:.3f} | {row['bootstrap']:.3f} |")
    benign = [rows[kind]["alone"] for kind in rows if kind in BENIGN]
    leaking = [rows[kind]["among"] for kind in rows if kind in LEAKING]
    summary = {
        "curves": args.curves,
        "seed": args.seed,
        "flagged": {kind: row["alone"] for kind, row in rows.items()},
        "flagged_among_1000": {kind: row["among"] for kind, row in rows.items()},
        "false_rate_worst": max(benign, default=None),
        "recall_worst": min(leaking, default=None),
        "interval_covers": float(np.mean([row["covers"] for row in rates.values()])) if rates else None,
        "rate_error_median": float(np.median([row["error"] for row in rates.values()])) if rates else None,
        "seconds_5000_sites": round(large_service_seconds(args.seed), 2),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print("\n" + json.dumps(summary))
    return 0


def large_service_seconds(seed: int) -> float:
    """Time of the whole analysis of one process with 5 000 sites and an hour of a snapshot every 10 s."""
    rng = np.random.default_rng(seed)
    steps, sites, weight = 360, 5000, 524_288.0
    samples = rng.poisson(rng.gamma(0.5, 20, size=sites), size=(steps, sites)).astype(float)
    samples[:, ::97] += np.cumsum(rng.poisson(0.5, size=(steps, len(range(0, sites, 97)))), axis=0)
    times = np.arange(steps) * 10.0
    live = samples * weight
    observed = Observed(
        live_bytes=live,
        variance=live * weight,
        samples=samples,
        birth_mean_s=times[:, None] - rng.uniform(1, 60, size=(steps, sites)),
        birth_minutes=np.full((steps, sites), 2.0),
        born_bytes=np.cumsum(live, axis=0),
        unit_bytes=np.full(sites, 5000.0),
    )
    series = series_of([Curve("busy", ())] * sites, times, seed, observed=observed)
    reader = _OneSeries(series)
    began = time.perf_counter()
    report = find_leaks(reader, "large", Span(series.headers[0].at_ns, series.headers[-1].at_ns + 1))
    took = time.perf_counter() - began
    print(f"\nOne process, {report.sites_examined} sites, {report.snapshots} snapshots: {took:.2f} s")
    return took


class _OneSeries(MemoryReader):
    """Has its series at hand, so that only the analysis is timed."""

    def __init__(self, series: HeapSeries) -> None:
        super().__init__()
        self._series = series
        count = len(series.stacks)
        frames = {frame.id: frame for index in range(count) for frame in frames_of(index)}
        self.define(Definitions(frames, {stack_of(index).id: stack_of(index) for index in range(count)}, {}))

    def headers(self, service: str, within: Span) -> Sequence[SnapshotHeader]:
        return [header for header in self._series.headers if within.from_ns <= header.at_ns < within.to_ns]

    def heap_series(self, service: str, within: Span, instance_id: str | None = None) -> Iterable[HeapSeries]:
        return [self._series]


def blocks_of(curves: Sequence[Curve], seed: int) -> tuple[Blocks, Array]:
    """The blocks our analysis sees, and the live bytes everybody sees, (T, N)."""
    series = series_of(curves, TIMES, seed)
    edges = edges_of(after_warm_up(series.headers, series.headers[0].at_ns))
    assert edges is not None
    return reduce(series, Grouping(np.arange(len(curves)), len(curves)), edges), series.live_bytes


def judged(blocks: Blocks, sites: int) -> list[Judgement]:
    """Verdicts of the curves, each as if it were the only one that grows among so many sites."""
    screened = verdict.screen(blocks)
    factor = sites * (1 / np.arange(1, sites + 1)).sum()
    corrected = [np.minimum(p * factor, 1.0) for p in (screened.p_retained, screened.p_live)]
    found = verdict.judge(blocks, np.arange(len(blocks.live_last)), *corrected, screened.p_retained, sites)
    columns = [Judged(column, each, (), 0) for column, each in enumerate(found)]
    # No operations are counted; every snapshot behind the warm-up is a reading.
    readings = float((blocks.edges_s[-1] - blocks.edges_s[0]) / (TIMES[1] - TIMES[0]))
    kept = looks.confirmed(columns, [Screen(None, blocks, screened)], lambda _: 0.0, lambda _: readings)
    return [each.judgement for each in kept]


def flag_rates(curves: Sequence[Curve], seed: int) -> dict[str, float]:
    """Share called a leak by each; and what ours says instead (alone)."""
    blocks, live = blocks_of(curves, seed)
    alone = [each.verdict for each in judged(blocks, 1)]
    among = [each.verdict for each in judged(blocks, SITES)]
    return {
        "ols": float((ols_p(TIMES, live) < ALPHA).mean()),
        "mk": float((normal_mann_kendall_p(live) < ALPHA).mean()),
        "threshold": float(threshold_rule(TIMES, live).mean()),
        "alone": _of(alone, Verdict.LEAK),
        "among": _of(among, Verdict.LEAK),
        "growing": _of(alone, Verdict.GROWING),
        "unclear": _of(alone, Verdict.UNCLEAR),
    }


def rate_quality(curves: Sequence[Curve], seed: int) -> dict[str, float]:
    """Stated rates against true ones. The truth is the growth of the leaking component over the evidence window."""
    blocks, live = blocks_of(curves, seed)
    first = int(np.searchsorted(TIMES, TIMES[-1] - blocks.seconds))
    truth = np.array([(c.components[-1].level[-1] - c.components[-1].level[first]) / blocks.seconds for c in curves])
    rates = [each.bytes_rate for each in judged(blocks, 1)]
    stated = np.array([[rate.low, rate.per_second, rate.high] for rate in rates])
    low, high = block_bootstrap(TIMES[first:], live[first:], np.random.default_rng(seed))
    return {
        "error": float(np.median(np.abs(stated[:, 1] / truth - 1))),
        "covers": float(((stated[:, 0] <= truth) & (truth <= stated[:, 2])).mean()),
        "width": float(np.median((stated[:, 2] - stated[:, 0]) / 2 / truth)),
        "bootstrap": float(((low <= truth) & (truth <= high)).mean()),
    }


# --- What people use ---


def ols_p(times: Array, values: Array) -> Array:
    """One-sided p of the slope of a line by least squares, residuals taken as independent."""
    x = times - times.mean()
    slope = x @ values / (x @ x)
    residual = values - values.mean(axis=0) - np.outer(x, slope)
    freedom = len(times) - 2
    error = np.sqrt((residual**2).sum(axis=0) / freedom / (x @ x))
    return 1 - trend.student_below(slope / np.maximum(error, 1e-300), freedom)


def normal_mann_kendall_p(values: Array) -> Array:
    """One-sided p of Mann-Kendall by the normal approximation, as usual for more than a few dozen points."""
    count = len(values)
    score = sum(np.sign(values[row + 1 :] - values[row]).sum(axis=0) for row in range(count - 1))
    z = score / np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    return 1 - trend.student_below(z, 10_001)


def threshold_rule(times: Array, values: Array) -> Array:
    """At least 10 % growth an hour, and the last third at least 0.3 times as steep as the whole."""

    def slope(part: Array, of: Array) -> Array:
        x = part - part.mean()
        return x @ of / (x @ x)

    whole = slope(times, values)
    tail = slope(times[-len(times) // 3 :], values[-len(times) // 3 :])
    return (whole * 3600 >= 0.10 * values.mean(axis=0)) & (tail >= 0.3 * whole)


def block_bootstrap(times: Array, values: Array, rng: np.random.Generator, rounds: int = 200) -> tuple[Array, Array]:
    """95 % interval of the Theil-Sen slope of twelve floors, by resampling blocks of three of their residuals."""
    starts = (np.arange(12) * len(times)) // 12
    floors = np.minimum.reduceat(values, starts, axis=0)
    at = np.add.reduceat(times, starts) / np.diff(np.append(starts, len(times)))
    slope = trend.theil_sen(at, floors)
    fit = np.outer(at - at.mean(), slope)
    residual = floors - fit
    found = []
    for _ in range(rounds):
        rows = (rng.integers(0, 10, size=4)[:, None] + np.arange(3)).ravel()
        found.append(trend.theil_sen(at, fit + residual[rows]))
    low, high = np.quantile(np.stack(found), [0.025, 0.975], axis=0)
    return low, high


def _of(verdicts: Sequence[Verdict], wanted: Verdict) -> float:
    return sum(each is wanted for each in verdicts) / len(verdicts)


def _share(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".") if 0 < value < 1 else f"{value:.0f}"


if __name__ == "__main__":
    raise SystemExit(main())
