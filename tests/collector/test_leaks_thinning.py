"""What the sampler does to its own samples, when it doubles its interval, is no property of the application."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from glassbottom_collector.leaks.detector import find_leaks
from glassbottom_collector.model.heap import Definitions, HeapSeries
from glassbottom_collector.model.leak import LeakFinding, Verdict
from glassbottom_collector.model.process import Process, Span

from tests.support.heap_curves import Array, Curve, Observed, frames_of, series_of, stack_of
from tests.support.memory_reader import MemoryReader, snapshots_of

pytestmark = pytest.mark.once  # arithmetic only; nothing in it differs between versions

START = 1_700_000_000_000_000_000
SECOND = 10**9
HOUR = np.arange(120) * 30.0
WEIGHT = 524_288.0


def thinned(births: Array, row: int, seed: int, *, real_step: float = 0.0) -> HeapSeries:
    """A site whose samples stay: so many expected births before each reading; between `row` and the next reading the
    interval doubles. real_step: samples that the application adds in that interval besides."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(births)
    old = np.cumsum(counts)[: row + 1]
    kept = int(rng.binomial(old[-1], 0.5))
    kept_births = np.sort(rng.choice(np.repeat(HOUR[: row + 1], counts[: row + 1]), kept, replace=False))
    later = rng.poisson(births[row + 1 :] / 2)
    later[0] += round(real_step / 2)
    samples = np.concatenate([old, kept + np.cumsum(later)]).astype(float)
    weight = np.where(np.arange(len(HOUR)) <= row, WEIGHT, 2 * WEIGHT)
    moment = np.concatenate(
        [np.cumsum(counts * HOUR)[: row + 1], kept_births.sum() + np.cumsum(later * HOUR[row + 1 :])]
    )
    observed = Observed(
        live_bytes=(samples * weight)[:, None],
        variance=(samples * weight**2)[:, None],
        samples=samples[:, None],
        birth_mean_s=np.divide(moment, samples, out=np.zeros(len(HOUR)), where=samples > 0)[:, None],
        birth_minutes=(HOUR // 60)[:, None],
        born_bytes=np.cumsum(births * WEIGHT)[:, None],
        unit_bytes=np.array([4096.0]),
    )
    series = series_of([Curve("thinned", ())], HOUR, seed, observed=observed)
    headers = tuple(
        replace(header, interval_bytes=WEIGHT if at <= row else 2 * WEIGHT) for at, header in enumerate(series.headers)
    )
    return replace(series, headers=headers)


def finding_of(series: HeapSeries) -> LeakFinding | None:
    reader = MemoryReader()
    reader.add_process(Process("shop", series.instance_id, 1, START))
    known = Definitions({frame.id: frame for frame in frames_of(0)}, {stack_of(0).id: stack_of(0)}, {})
    for snapshot in snapshots_of(series, known):
        reader.add_snapshot(snapshot)
    report = find_leaks(reader, "shop", Span(START, START + 3600 * SECOND), include_stable=True)
    return report.findings[0] if report.findings else None


@pytest.mark.parametrize("row", [45, 75, 105])
def test_a_leak_stays_a_leak_when_the_interval_doubles_meanwhile(row):
    findings = [finding_of(thinned(np.full(120, 1.0), row, seed)) for seed in range(8)]
    leaks = [each for each in findings if each is not None and each.verdict is Verdict.LEAK]

    assert len(leaks) >= 7
    rates = [each.bytes_rate.per_second * 30 / WEIGHT for each in leaks]
    assert np.mean(rates) == pytest.approx(1.0, rel=0.15)


def test_what_does_not_grow_is_not_made_to_grow():
    """The step is taken out, and with it neither a rise is left nor one put in."""
    births = np.where(np.arange(120) == 0, 60.0, 0.0)
    verdicts = [finding_of(thinned(births, row, seed)) for row in (45, 75, 105) for seed in range(4)]

    assert {each.verdict for each in verdicts if each is not None} == {Verdict.STABLE}


def test_a_step_of_the_applications_own_at_that_moment_is_still_one():
    births = np.where(np.arange(120) == 0, 60.0, 0.0)
    found = [finding_of(thinned(births, 75, seed, real_step=200.0)) for seed in range(4)]

    assert all(each is None or each.verdict is not Verdict.LEAK for each in found)
