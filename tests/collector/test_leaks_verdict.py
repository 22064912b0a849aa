"""Which curve is called what. Curves are drawn with a seed and seen through a sampler: tests/support/heap_curves.py.

Rates over hundreds of curves are measured by tests/bench/curves.py; here a few seeds of each kind keep the promises.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from glassbottom_collector.leaks.detector import find_leaks
from glassbottom_collector.leaks.rules import growth_rule
from glassbottom_collector.model.code import Frame, Stack, stack_id
from glassbottom_collector.model.heap import Definitions, HeapSeries
from glassbottom_collector.model.leak import LeakFinding, LeakReport, Verdict
from glassbottom_collector.model.process import Process, Span

from tests.support.heap_curves import (
    BENIGN,
    LEAKING,
    MB,
    Array,
    Component,
    Curve,
    autoregressive,
    draw,
    frames_of,
    series_of,
    stack_of,
)
from tests.support.memory_reader import MemoryReader, snapshots_of

pytestmark = pytest.mark.once  # real servers, files and curves; nothing in it differs between versions

START = 1_700_000_000_000_000_000
SECOND = 10**9
HOUR = np.arange(120) * 30.0
A, B, C = "a" * 32, "b" * 32, "c" * 32


def reader_of(
    *parts: tuple[HeapSeries, Sequence[Curve]], started_ns: int | None = None, definitions: Definitions | None = None
) -> MemoryReader:
    """A store that holds these series; their processes started with their first snapshot unless told otherwise."""
    reader = MemoryReader()
    for series, _ in parts:
        begin = series.headers[0].at_ns if started_ns is None else started_ns
        reader.add_process(Process("shop", series.instance_id, 1, begin))
    for series, curves in parts:
        known = definitions or Definitions(
            {frame.id: frame for index in range(len(curves)) for frame in frames_of(index)},
            {stack_of(index).id: stack_of(index) for index in range(len(curves))},
            {},
        )
        for snapshot in snapshots_of(series, known):
            reader.add_snapshot(snapshot)
    return reader


def judge(curves: Sequence[Curve], times: Array, seed: int, **options: object) -> LeakReport:
    reader = reader_of((series_of(curves, times, seed), curves))
    within = Span(START, START + int((times[-1] + 1) * SECOND))
    return find_leaks(reader, "shop", within, include_stable=True, limit=len(curves), **options)  # type: ignore[arg-type]


def finding_of(report: LeakReport, index: int) -> LeakFinding | None:
    found = [finding for finding in report.findings if finding.frame == frames_of(index)[0]]
    return found[0] if found else None


def verdict_of(report: LeakReport, index: int) -> Verdict | None:
    found = finding_of(report, index)
    return found.verdict if found is not None else None


def evidence_of(finding: LeakFinding, name: str) -> tuple[bool, str]:
    found = next(each for each in finding.evidence if each.name == name)
    return found.supports_leak, found.sentence


@pytest.mark.parametrize("kind", BENIGN)
def test_a_benign_curve_is_not_called_a_leak(kind):
    """A warm-up that has a third of its way left at the end passes for one time in a hundred; nothing else does."""
    report = judge(draw(kind, 30, HOUR, seed=3), HOUR, seed=4)
    accused = [finding for finding in report.findings if finding.verdict is Verdict.LEAK]

    assert len(report.findings) == 30
    assert len(accused) <= (1 if kind == "warm-up plateau" else 0)


@pytest.mark.parametrize(
    ("kind", "least"),
    [
        ("slow leak", 24),
        ("leak", 29),
        ("leak + sawtooth", 25),
        ("leak by bursts", 24),
        ("leak under diurnal load", 28),
        ("leak under load ramp", 27),
        ("leak per operation", 18),
    ],
)
def test_a_leak_is_called_a_leak(kind, least):
    report = judge(draw(kind, 30, HOUR, seed=3), HOUR, seed=4)

    assert sum(finding.verdict is Verdict.LEAK for finding in report.findings) >= least


def test_every_kind_of_curve_is_tested():
    assert set(LEAKING) == {
        "slow leak",
        "leak",
        "leak + sawtooth",
        "leak by bursts",
        "leak under diurnal load",
        "leak under load ramp",
        "leak per operation",
    }


def test_the_interval_of_the_rate_covers_the_truth_about_as_often_as_it_says():
    curves = draw("leak", 100, HOUR, seed=5)
    report = judge(curves, HOUR, seed=6)
    rate_of = {frames_of(index)[0]: curve.rate for index, curve in enumerate(curves)}

    covered = [
        finding.bytes_rate.low <= rate_of[finding.frame] <= finding.bytes_rate.high for finding in report.findings
    ]
    errors = [abs(finding.bytes_rate.per_second / rate_of[finding.frame] - 1) for finding in report.findings]

    assert len(covered) == 100
    assert 0.90 <= np.mean(covered) <= 1.0
    assert np.median(errors) < 0.1


def demo(seed: int, seconds: float) -> tuple[list[Curve], Array]:
    """The story of `make demo`: 2 MB a connection, one a second, a cache that fills in 10 s, and 100 busy sites."""
    rng = np.random.default_rng(seed)
    times = np.arange(2.0, seconds + 0.1, 2.0)
    connected = np.array([(np.arange(8.0, seconds) <= at).sum() for at in times], dtype=float)
    leak = Curve("ws", (Component(connected * 2 * MB, age_s=0.0),), 2 * MB, unit_bytes=4096.0, probability=0.0078)
    cache = Curve("cache", (Component(np.minimum(times, 10.0) * 3 * MB, age_s=0.0),))
    busy = []
    for _ in range(100):
        size, lifetime = np.exp(rng.uniform(np.log(3e4), np.log(1e7))), float(np.exp(rng.uniform(-3, 3)))
        level = size * np.clip(1 + 0.3 * autoregressive(0.5, len(times), rng), 0.05, None) * np.minimum(1, times / 10)
        busy.append(Curve("http", (Component(level, lifetime_s=lifetime, age_s=0.0),)))
    return [leak, cache, *busy], times


@pytest.mark.parametrize("seed", range(4))
def test_two_megabytes_a_second_are_named_within_ninety_seconds_and_the_cache_is_not(seed):
    curves, times = demo(seed, 90.0)
    reader = reader_of((series_of(curves, times, seed), curves), started_ns=START)

    report = find_leaks(reader, "shop", Span(START - 510 * SECOND, START + 91 * SECOND))

    first = report.findings[0]
    assert first.frame == frames_of(0)[0]
    assert first.verdict is Verdict.LEAK
    assert first.bytes_rate.per_second == pytest.approx(2 * MB, rel=0.2)
    assert first.objects_rate.per_second == pytest.approx(2 * MB / 4096, rel=0.2)
    assert [finding.frame for finding in report.findings[1:] if finding.verdict is Verdict.LEAK] == []
    assert verdict_of(report, 1) in (None, Verdict.STABLE)


def test_load_that_rises_is_growing_and_the_evidence_says_that_nothing_stays():
    report = judge(draw("load ramp", 20, HOUR, seed=8), HOUR, seed=9)
    growing = [finding for finding in report.findings if finding.verdict is Verdict.GROWING]

    assert growing
    for finding in growing:
        supports, sentence = evidence_of(finding, "age")
        assert not supports
        assert "replaced all the time" in sentence
        assert "A leak if what is there grew old" in finding.would_change


def test_a_cache_that_is_full_is_stable_and_one_that_still_fills_may_be_growing():
    full = Component(np.minimum(HOUR / 900.0, 1.0) * 80 * MB, age_s=0.0)
    filling = Component(-np.expm1(-HOUR / 2500.0) * 200 * MB, age_s=0.0)
    report = judge([Curve("full", (full,)), Curve("filling", (filling,))], HOUR, seed=2)

    assert verdict_of(report, 0) is Verdict.STABLE
    assert verdict_of(report, 1) is Verdict.GROWING
    found = finding_of(report, 1)
    assert found is not None
    assert not evidence_of(found, "warm-up")[0]
    assert "levels off" in evidence_of(found, "warm-up")[1]


def test_a_rise_in_one_half_of_the_window_is_not_confirmed_and_one_in_both_is():
    late = np.where(HOUR > 2400.0, HOUR - 2400.0, 0.0) * MB / 30
    report = judge(
        [
            Curve("late", (Component(20 * MB + late, age_s=0.0),)),
            Curve("leak", (Component(20 * MB + HOUR * MB / 30, age_s=0.0),)),
        ],
        HOUR,
        seed=2,
    )
    for index, expected in ((0, False), (1, True)):
        found = finding_of(report, index)
        assert found is not None
        supports, sentence = evidence_of(found, "confirmation")
        assert supports is expected
        assert "Judged apart, the first 21" in sentence
    assert verdict_of(report, 0) is not Verdict.LEAK
    assert verdict_of(report, 1) is Verdict.LEAK


def test_a_restart_is_not_growth_and_its_epochs_are_judged_by_themselves():
    """After a restart the heap warms up from nothing; joined with what was before it would look like a leak."""
    times = np.arange(60) * 30.0
    low = [Curve("before", (Component(np.full(60, 20 * MB)),))]
    warm = Component(20 * MB + np.minimum(times / 300.0, 1.0) * 60 * MB, age_s=0.0)
    high = [Curve("after", (warm,))]
    before = series_of(low, times, seed=1, epoch=1)
    after = series_of(high, times, seed=2, epoch=2, start_ns=START + 1800 * SECOND)

    reader = MemoryReader()
    reader.add_process(Process("shop", A, 1, START))
    known = Definitions({frame.id: frame for frame in frames_of(0)}, {stack_of(0).id: stack_of(0)}, {})
    for series in (before, after):
        for snapshot in snapshots_of(series, known):
            reader.add_snapshot(snapshot)
    report = find_leaks(reader, "shop", Span(START, START + 3600 * SECOND), include_stable=True)

    assert [finding.verdict for finding in report.findings] == [Verdict.STABLE]
    assert any("started afresh 1 time in the window" in note for note in report.notes)


def test_eight_workers_that_leak_an_eighth_each_are_one_leak_with_the_sum_of_their_rates():
    rate = 10 * MB / 3600
    parts = []
    for worker in range(8):
        curves = [Curve("leak", (Component(np.full(120, 10 * MB)), Component(rate * HOUR, age_s=0.0)), rate)]
        parts.append((series_of(curves, HOUR, seed=worker, instance_id=f"{worker:032x}"), curves))
    reader = reader_of(*parts)
    report = find_leaks(reader, "shop", Span(START, START + 3600 * SECOND))

    (finding,) = report.findings
    assert finding.verdict is Verdict.LEAK
    assert finding.bytes_rate.low <= 8 * rate <= finding.bytes_rate.high
    assert len(finding.instance_ids) >= 4
    alone = find_leaks(reader, "shop", Span(START, START + 3600 * SECOND), instance_id=f"{3:032x}")
    assert all(each.bytes_rate.per_second < 4 * rate for each in alone.findings)


def test_one_leaking_process_among_healthy_ones_is_found_and_named():
    rate = 100 * MB / 3600
    parts = []
    for instance, leaking in ((A, False), (B, True), (C, False)):
        grown = Component(rate * HOUR, age_s=0.0) if leaking else Component(np.full(120, 5 * MB))
        curves = [Curve("site", (Component(np.full(120, 10 * MB)), grown))]
        parts.append((series_of(curves, HOUR, seed=ord(instance[0]), instance_id=instance), curves))
    report = find_leaks(reader_of(*parts), "shop", Span(START, START + 3600 * SECOND))

    assert [finding.verdict for finding in report.findings] == [Verdict.LEAK]
    assert report.findings[0].instance_ids == (B,)


def test_with_few_snapshots_it_is_unclear_and_says_how_many_more_are_needed():
    times = np.arange(6) * 10.0
    curves = [Curve("leak", (Component(2 * MB * times, age_s=0.0),), 2 * MB)]
    report = judge(curves, times, seed=1)

    (finding,) = report.findings
    assert finding.verdict is Verdict.UNCLEAR
    supports, sentence = evidence_of(finding, "data")
    assert not supports
    assert "11 are needed" in sentence
    assert "more at one every 10 s" in sentence
    assert any("11 are needed" in note for note in report.notes)


def test_without_data_the_report_is_empty_and_says_so():
    report = find_leaks(MemoryReader(), "shop", Span(START, START + SECOND))

    assert (report.findings, report.snapshots, report.covered) == ((), 0, None)
    assert "No heap snapshot of shop" in report.notes[0]


def test_a_rise_seen_in_a_handful_of_samples_is_unclear_and_says_that_samples_are_missing():
    """Ten blocks of 2 MB caught one time in ten: seven samples rising in a line prove nothing about the rate."""
    level = np.floor(HOUR / 500.0) * 6 * MB
    unclear = 0
    for seed in range(8):
        report = judge([Curve("few", (Component(level, age_s=0.0),), unit_bytes=2 * MB, probability=0.25)], HOUR, seed)
        found = finding_of(report, 0)
        if found is not None and found.verdict is Verdict.UNCLEAR:
            unclear += 1
            assert "samples" in found.would_change
        else:
            assert found is None or found.samples >= 8 or found.verdict is not Verdict.LEAK
    assert unclear


def test_blocks_that_grow_in_place_and_keep_their_birth_do_not_double_the_rate():
    """A list that is appended to for ever: realloc carries its birth along, so its age mass overstates what stays."""
    rate = 50 * MB / 600
    curves = [Curve("list", (Component(rate * HOUR + 5 * MB, age_s=0.0),), rate)]
    series = series_of(curves, HOUR, seed=3)
    carried = np.full_like(series.birth_mean_ms, START // 10**6)
    minutes = np.maximum(1, (HOUR[:, None] // 60)).astype(np.uint32)
    series = HeapSeries(**{**vars(series), "birth_mean_ms": carried, "birth_minutes": minutes})
    report = find_leaks(reader_of((series, curves)), "shop", Span(START, START + 3600 * SECOND))

    assert report.findings[0].bytes_rate.per_second == pytest.approx(rate, rel=0.15)


def test_the_same_library_line_called_from_two_places_is_two_sites():
    """json/decoder.py under a leak and under a healthy caller: the healthy one must not hide or share the blame."""
    library = Frame("JSONDecoder.raw_decode", "/usr/lib/python3.12/json/decoder.py", 353)
    callers = [Frame("remember", "/srv/app/cache.py", 12), Frame("parse", "/srv/app/views.py", 40)]
    stacks = [Stack(stack_id(ids), ids) for ids in ((library.id, caller.id) for caller in callers)]
    rate = 120 * MB / 3600
    curves = [
        Curve("leak", (Component(rate * HOUR, age_s=0.0),), rate),
        Curve("flat", (Component(np.full(120, 40 * MB), lifetime_s=20.0, age_s=20.0),)),
    ]
    series = series_of(curves, HOUR, seed=1)
    series = HeapSeries(**{**vars(series), "stacks": np.array([stack.id for stack in stacks], dtype=np.uint64)})
    known = Definitions({frame.id: frame for frame in (library, *callers)}, {stack.id: stack for stack in stacks}, {})
    report = find_leaks(
        reader_of((series, curves), definitions=known), "shop", Span(START, START + 3600 * SECOND), include_stable=True
    )

    by_caller = {finding.application_frame: finding for finding in report.findings}
    assert set(by_caller) == set(callers)
    assert all(finding.frame == library for finding in report.findings)
    assert by_caller[callers[0]].verdict is Verdict.LEAK
    assert by_caller[callers[1]].verdict is Verdict.STABLE


def test_the_threshold_rule_fires_on_a_warm_up_that_the_verdict_does_not_accuse():
    times = np.arange(100) * 2.0
    warm = Component(np.minimum(times / 20.0, 1.0) * 90 * MB, age_s=0.0)
    curves = [Curve("warm-up", (warm,))]
    series = series_of(curves, times, seed=1)
    hits = growth_rule(series)
    report = judge(curves, times, seed=1)

    assert hits
    assert hits[0].rule == "growth-over-1MiB-per-second"
    assert hits[0].bytes_per_second == pytest.approx(4.5 * MB, rel=0.3)
    assert hits[0].within.from_ns == START
    assert [hit.rule for hit in report.rule_hits] == ["growth-over-1MiB-per-second"]
    assert [finding.verdict for finding in report.findings] == [Verdict.STABLE]


def test_the_rule_never_compares_different_epochs_or_processes():
    times = np.arange(10) * 2.0
    small = series_of([Curve("x", (Component(np.full(10, 1 * MB)),))], times, seed=1)
    large = series_of(
        [Curve("x", (Component(np.full(10, 400 * MB)),))], times, seed=1, epoch=2, start_ns=START + 20 * SECOND
    )
    joined = HeapSeries(**{**vars(small), "headers": small.headers + large.headers})

    assert growth_rule(joined) == []


def test_progress_is_told_and_what_it_raises_ends_the_analysis():
    curves = draw("leak", 3, HOUR, seed=1)
    reader = reader_of((series_of(curves, HOUR, seed=1), curves))
    stages: list[str] = []
    find_leaks(
        reader, "shop", Span(START, START + 3600 * SECOND), progress=lambda stage, _done, _total: stages.append(stage)
    )

    def cancel(stage: str, done: int, total: int) -> None:
        raise KeyboardInterrupt

    assert len(set(stages)) >= 3
    with pytest.raises(KeyboardInterrupt):
        find_leaks(reader, "shop", Span(START, START + 3600 * SECOND), progress=cancel)
